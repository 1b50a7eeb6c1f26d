from .assets import WAIT_HOURS as WAIT_HOURS
from .settings import AutomationConfig as AutomationConfig
