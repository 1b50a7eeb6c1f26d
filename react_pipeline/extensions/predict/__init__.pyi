from .commands import Source as Source
from .encoding import encode_pictures as encode_pictures
from .pictures import Picture as Picture
from .pictures import find_pictures as find_pictures
from .pictures import hash_pictures as hash_pictures
from .pictures import require_source as require_source
from .predict import predict_pictures as predict_pictures
from .run_folder import Options as Options
