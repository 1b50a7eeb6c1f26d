"""The corpus in a browser.

Does not belong here: searching it (`retrieval`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
