from .encoding import encode_pictures as encode_pictures
from .pictures import Picture as Picture
from .pictures import find_pictures as find_pictures
from .pictures import identity_of as identity_of
from .pictures import require_source as require_source
from .predict import Options as Options
from .predict import predict_pictures as predict_pictures
from .transduction import adapted_to as adapted_to
