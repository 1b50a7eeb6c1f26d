"""The next store."""
