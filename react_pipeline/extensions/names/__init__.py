"""Names of classes in the captions of the corpus: counting them, and retrieval by them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
