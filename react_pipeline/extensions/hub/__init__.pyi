from .exported_folder import write_calibration as write_calibration
from .exported_folder import write_package as write_package
