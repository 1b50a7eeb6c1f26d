from .exported_folder import export as export
from .exported_folder import other_champion as other_champion
