from .machine import Machine as Machine
from .plan import plan_of as plan_of
from .processor import GPU_PAIRS_PER_SECOND as GPU_PAIRS_PER_SECOND
from .sums import Cost as Cost
from .sums import Step as Step
from .sums import Sums as Sums
