"""Labels: predictions written for other tools, and the labels that come back from them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
