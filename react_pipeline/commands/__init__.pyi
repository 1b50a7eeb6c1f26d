from . import process_groups as process_groups
from .servers import serve as serve
