"""Modeling: the parts of a CLIP: attention, gated blocks, towers, weights."""
