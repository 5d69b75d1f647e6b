"""What a score is worth: intervals, tests between two systems, and several answers to one question."""
