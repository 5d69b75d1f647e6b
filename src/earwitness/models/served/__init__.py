"""Models behind servers: requests that are each paid once."""
