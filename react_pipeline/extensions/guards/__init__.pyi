from .extension import GuardsConfig as GuardsConfig
from .results import GUARD_DROPS as GUARD_DROPS
from .results import read_drops as read_drops
