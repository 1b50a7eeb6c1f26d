"""Advice: what to expect of each method on a domain, before anything is trained."""
