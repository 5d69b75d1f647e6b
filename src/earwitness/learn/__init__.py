"""Training and sampling on tensors: sequences, losses, rewards, and the one trainer."""
