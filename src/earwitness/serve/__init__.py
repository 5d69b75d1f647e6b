"""A model server on this machine: local models over the protocol that vLLM speaks."""
