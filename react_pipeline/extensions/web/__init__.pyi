from .downloads import download_images as download_images
from .table_columns import TableColumns as TableColumns
from .web_access import guarded_opener as guarded_opener
