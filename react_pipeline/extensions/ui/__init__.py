"""The user interfaces: Dagster's webserver behind a guard, it and MLflow as processes of this
machine, and the server of our own pages with what a browser may ask of it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
