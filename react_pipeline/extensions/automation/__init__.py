"""Automation: what is out of date, and what runs without a person.

Does not belong here: the partitions of domain files (`react_pipeline.assets`).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
