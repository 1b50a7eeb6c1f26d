"""Several domains, processes and machines: one pass over the corpus for all domains that are due,
trainings that torchrun starts, and tasks of Spark.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
