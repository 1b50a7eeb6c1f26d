"""Any open_clip model: load and save, precision, gated blocks, towers, classifiers from class
names, and the base.

Does not belong here: training one, or encoding a corpus.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
