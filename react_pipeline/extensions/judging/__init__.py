"""Verdicts without labels: a person judges the pictures on which two models disagree."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
