from .machine import Machine as Machine
from .plan import plan_of as plan_of
