from .kinds import ALIVE as ALIVE
from .kinds import DOWNLOADER_SECONDS as DOWNLOADER_SECONDS
from .kinds import URLS_PER_CORE_SECOND as URLS_PER_CORE_SECOND
