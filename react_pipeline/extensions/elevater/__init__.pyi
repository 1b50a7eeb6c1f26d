from .encoding import PreprocessedImages as PreprocessedImages
from .encoding import encode as encode
from .listing import read_json as read_json
from .listing import read_lines as read_lines
from .sources import FileSource as FileSource
from .sources import is_inside as is_inside
from .sources import open_zip as open_zip
