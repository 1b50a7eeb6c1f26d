from .judgements import JUDGEMENTS as JUDGEMENTS
from .judgements import judgements_of as judgements_of
