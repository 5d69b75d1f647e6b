"""The only room that loads or calls a model."""
