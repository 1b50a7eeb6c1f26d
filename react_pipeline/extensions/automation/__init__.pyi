from .settings import AutomationConfig as AutomationConfig
