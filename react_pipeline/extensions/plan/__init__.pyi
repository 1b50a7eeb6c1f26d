from .machine import Machine as Machine
from .plan import make_plan as make_plan
