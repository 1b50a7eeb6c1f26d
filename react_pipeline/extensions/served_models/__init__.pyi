from .package import package_model as package_model
from .package import refresh_calibration as refresh_calibration
from .package import save_model as save_model
