"""Many pictures by a customized model: `react-pipeline predict` and `embed`.

Belongs here: which pictures are meant, encoding them, the files of a run. Does not belong here: the
model (`use`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
