"""ELEVATER: 20 data sets of image classification, their protocols and submissions; image-text
retrieval.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
