from .messages import AlertsConfig as AlertsConfig
from .messages import problems as problems
