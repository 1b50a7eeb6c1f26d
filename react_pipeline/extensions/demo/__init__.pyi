from .base import build_base as build_base
from .commands import DEMO_DOMAINS as DEMO_DOMAINS
from .corpus import captions as captions
from .corpus import drawn as drawn
from .corpus import labelled_images as labelled_images
from .packages import JoinedNetworks as JoinedNetworks
