"""Results of a domain, their comparison, the overview of all domains, and what pages show of them.

Does not belong here: ELEVATER's benchmark, or who becomes champion.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
