"""Makes the embedded models from scratch, and scores them."""
