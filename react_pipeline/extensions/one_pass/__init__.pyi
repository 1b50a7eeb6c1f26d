from .together import read_together as read_together
