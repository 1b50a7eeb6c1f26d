"""The Dagster code location: every step of `react_pipeline` as an asset.

Belongs here: which assets there are, how they depend on one another, how they are checked, shown,
and run. Does not belong here: what a step does. A body resolves its partition, calls one function
of the library and reports.
"""

import warnings

import dagster as dg
import lazy_loader

# Mappings between multi-partitions and partitioned checks are used on purpose; constraints.txt pins
# their version.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
