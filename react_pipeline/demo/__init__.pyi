from .base import build_base as build_base
from .corpus import build_corpus as build_corpus
from .corpus import build_evaluation as build_evaluation
from .packages import CORPUS_SOURCES as CORPUS_SOURCES
from .packages import OTHER_SOURCES as OTHER_SOURCES
from .packages import Source as Source
from .packages import installed_versions as installed_versions
from .scenes import build_scenes as build_scenes
