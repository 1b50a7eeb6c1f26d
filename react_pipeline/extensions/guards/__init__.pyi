from .drops import GUARD_DROPS as GUARD_DROPS
from .drops import drops_of as drops_of
from .settings import GuardsConfig as GuardsConfig
