"""A customized model outside the project: the exported folder, and predictions.

Does not belong here: training it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
