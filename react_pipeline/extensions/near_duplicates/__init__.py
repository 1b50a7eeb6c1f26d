"""Pairs that look like a pair that was taken before: `retrieval.duplicate_similarity`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
