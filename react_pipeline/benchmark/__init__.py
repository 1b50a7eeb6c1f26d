"""ELEVATER: the 20 data sets, its protocols, image-text retrieval and submissions.

Does not belong here: reading data sets (`labelled`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
