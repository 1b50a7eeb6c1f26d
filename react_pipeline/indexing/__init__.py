"""Indexing: the parts that `index` is made of."""
