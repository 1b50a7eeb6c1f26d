from .together import passes_of as passes_of
from .together import read_together as read_together
