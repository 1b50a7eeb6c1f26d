"""What MLflow's client and database do not bear by themselves: sick servers, and a moved
project.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
