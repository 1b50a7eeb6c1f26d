from .dashboard import domain_page as domain_page
from .judgements import JUDGEMENTS as JUDGEMENTS
from .judgements import read_judgements as read_judgements
from .predictions import write_page as write_page
