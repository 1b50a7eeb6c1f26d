"""Guard sets: what customizing for a domain costs outside of it."""
