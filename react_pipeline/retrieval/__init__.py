"""Retrieval: the parts that `retrieve` is made of: prompts, ranking, duplicates, labels, reports."""
