"""Corpora in files of other forms than tars: folders of images, tables of URLs, ready embeddings.

Does not belong here: tar shards (`corpus`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
