from .cost import ALIVE as ALIVE
from .cost import DOWNLOADER_SECONDS as DOWNLOADER_SECONDS
from .cost import URLS_PER_CORE_SECOND as URLS_PER_CORE_SECOND
from .remote import RemoteServer as RemoteServer
from .table_columns import TableColumns as TableColumns
from .url_source import UrlSource as UrlSource
