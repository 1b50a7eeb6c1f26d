from .base import build_base as build_base
from .commands import DEMO_DOMAINS as DEMO_DOMAINS
from .corpus import captioned_images as captioned_images
from .corpus import labelled_images as labelled_images
from .encoder import JoinedNetworks as JoinedNetworks
from .packages import missing_packages as missing_packages
