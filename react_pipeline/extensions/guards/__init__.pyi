from .drops import GUARD_DROPS as GUARD_DROPS
from .drops import read_drops as read_drops
from .extension import GuardsConfig as GuardsConfig
