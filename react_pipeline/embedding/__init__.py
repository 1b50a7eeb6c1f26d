"""Embedding: the parts that `embed` is made of."""
