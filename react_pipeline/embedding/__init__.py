"""Images and captions to vectors, and reading vectors back.

Does not belong here: searching them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
