"""Giving a model away: the exported folder with its card and further formats, and the Hub."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
