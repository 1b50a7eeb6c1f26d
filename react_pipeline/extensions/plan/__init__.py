"""What a machine and a project have and need before anything runs: `doctor`, `plan`, `advise`.

Does not belong here: progress while a step runs (a bar of its own).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
