"""Vectors to FAISS indices, and searching them.

Does not belong here: prompts, or which hits are kept.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
