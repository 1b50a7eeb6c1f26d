"""What a browser may ask on this machine, and the server of our own pages.

Does not belong here: any page.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
