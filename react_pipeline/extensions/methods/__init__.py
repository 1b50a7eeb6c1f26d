"""Methods in addition to REACT's own, a module each; `HeadMethod` is the base class of heads."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
