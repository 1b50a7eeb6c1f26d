"""Labelled images: folders of classes, tables, and what the kinds of extensions share.

Does not belong here: measuring anything on them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
