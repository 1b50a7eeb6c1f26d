"""Class names to pairs: the retrieved set, the control set, and looking into the corpus.

Does not belong here: training on them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
