from .messages import problems as problems
from .settings import AlertsConfig as AlertsConfig
