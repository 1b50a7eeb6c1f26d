"""Commands: the parts of the command line."""
