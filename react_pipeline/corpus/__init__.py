"""Where pairs come from: tars and images; reading and collecting images.

Does not belong here: making vectors (`embedding`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
