"""A project: its configuration and store, the identity of its artifacts, files outside the store,
and Spark.

Does not belong here: any step.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
