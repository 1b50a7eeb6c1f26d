from .assets.freshness import CHECKS as CHECKS
from .assets.last_runs import ending_of as ending_of
from .assets.last_runs import is_under_way as is_under_way
from .assets.last_runs import last_ticks as last_ticks
from .assets.upkeep_sensor import TRY_TAG as TRY_TAG
from .assets.upkeep_sensor import WAIT_HOURS as WAIT_HOURS
from .settings import AutomationConfig as AutomationConfig
