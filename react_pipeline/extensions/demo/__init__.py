"""The embedded demo: a small real corpus and base model, made of installed packages."""
