"""MLflow: the only room that imports it.

Does not belong here: what a run is of.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
