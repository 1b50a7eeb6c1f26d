from .encoding import encode_pictures as encode_pictures
from .encoding import vectors_of as vectors_of
from .heads import adapted_to as adapted_to
from .pictures import Picture as Picture
from .pictures import find_pictures as find_pictures
from .pictures import identity_of as identity_of
from .pictures import require_source as require_source
from .run_folder import Options as Options
