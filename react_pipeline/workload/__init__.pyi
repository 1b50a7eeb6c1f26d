from .machine import Machine as Machine
from .plan import plan_of as plan_of
from .processor import GPU_PAIRS_PER_SECOND as GPU_PAIRS_PER_SECOND
