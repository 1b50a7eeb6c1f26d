from .dashboard import domain_page as domain_page
from .dashboard import write_page as write_page
from .judgements import JUDGEMENTS as JUDGEMENTS
from .judgements import read_judgements as read_judgements
