"""Tables, plots and statistics of a finished run."""
