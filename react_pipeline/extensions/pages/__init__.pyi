from .dashboard import domain_page as domain_page
from .judgements import JUDGEMENTS as JUDGEMENTS
from .judgements import judgements_of as judgements_of
from .predictions import write_page as write_page
