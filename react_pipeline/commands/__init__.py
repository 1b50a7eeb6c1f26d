"""The command line.

Does not belong here: any work. Commands that build something run the Dagster assets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
