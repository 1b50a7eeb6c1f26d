from .assets import train as train
from .one_pass import read_together as read_together
from .spark import tasks_in_session as tasks_in_session
