from .drops import GUARD_DROPS as GUARD_DROPS
from .drops import drops_of as drops_of
from .stages import GuardsConfig as GuardsConfig
