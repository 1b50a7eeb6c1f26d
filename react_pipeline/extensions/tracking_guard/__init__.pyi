from .bounded_http import bound as bound
from .relocation import relocate as relocate
from .relocation import require_here as require_here
