from .images import Files as Files
from .images import read_lines as read_lines
