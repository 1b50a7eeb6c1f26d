from .encoding import PreprocessedImages as PreprocessedImages
from .encoding import encode as encode
from .images import Files as Files
from .images import read_lines as read_lines
