"""Methods beside REACT's own and the linear head, a module each."""
