from .exported_folder import export as export
from .exported_folder import other_champion as other_champion
from .judge import prepare_log as prepare_log
from .judge_page import create_page as create_page
