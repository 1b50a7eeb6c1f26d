"""Benchmarks: ELEVATER (20 data sets, protocols, submissions), image-text retrieval, detection and
segmentation.

Does not belong here: reading data sets (`labelled`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
