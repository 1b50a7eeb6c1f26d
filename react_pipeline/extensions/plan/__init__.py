"""What each step will take, before it runs: `react-pipeline plan`.

Does not belong here: progress while a step runs (a bar of its own).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
