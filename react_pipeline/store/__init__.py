"""The lowest floor: errors, durable writes, digests, artifacts and the store that publishes them.

Does not belong here: what any artifact means.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
