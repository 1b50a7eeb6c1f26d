"""Pairs that look like a pair that was taken before: `retrieval.duplicate_similarity`."""
