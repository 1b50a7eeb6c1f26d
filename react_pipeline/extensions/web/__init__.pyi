from .bounded_body import BoundedBody as BoundedBody
from .bounded_body import RefusedAccess as RefusedAccess
from .cost import ALIVE as ALIVE
from .cost import DOWNLOADER_SECONDS as DOWNLOADER_SECONDS
from .cost import URLS_PER_CORE_SECOND as URLS_PER_CORE_SECOND
from .downloads import download_images as download_images
from .table_columns import TableColumns as TableColumns
from .web_access import guarded_opener as guarded_opener
