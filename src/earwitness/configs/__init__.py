"""The configurations that ship with the package; a test rehearses every one."""
