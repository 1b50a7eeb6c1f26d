"""Champion and challenger of each domain: evidence, judgement, verdicts.

Does not belong here: MLflow's registry (`tracking`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
