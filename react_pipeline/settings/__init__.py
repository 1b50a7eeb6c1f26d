"""Every field of `pipeline.yaml` and of domain files, with its rules, and reading these files.

Does not belong here: what is done with a field.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
