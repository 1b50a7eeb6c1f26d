"""Workload: how much a step has to do, and how long that takes, before it runs.

Does not belong here: progress while a step runs (a bar of its own).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
