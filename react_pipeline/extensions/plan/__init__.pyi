from .plan import Machine as Machine
from .plan import plan_of as plan_of
