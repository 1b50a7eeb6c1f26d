from .drops import GUARD_DROPS as GUARD_DROPS
from .drops import read_drops as read_drops
from .stages import GuardsConfig as GuardsConfig
