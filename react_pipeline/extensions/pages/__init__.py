"""Pages with pictures: dashboards, predictions, and boards on which a person browses the corpus,
reviews pairs, or judges models without labels.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
