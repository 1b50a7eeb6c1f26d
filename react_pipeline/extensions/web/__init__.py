"""Shards on object stores and web servers, and images at URLs.

Does not belong here: tables of URLs as a corpus (`urls`, `ready`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
