"""The Dagster code location: every step of `react_pipeline` as an asset.

Belongs here: which assets there are, how they depend on one another, how they are checked, shown,
and run. Does not belong here: what a step does. A body resolves its partition, calls one function
of the library and reports.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
