"""MLflow: the only room that imports it.

Does not belong here: how an artifact is made.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
