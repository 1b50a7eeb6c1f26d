from .control import draw_control as draw_control
from .decontamination import leaked_images as leaked_images
from .examination import REFILL_ROUNDS as REFILL_ROUNDS
from .name_counts import domain_names as domain_names
from .retrieve import most_pairs as most_pairs
from .retrieve import retrieve_pairs as retrieve_pairs
from .unnamed import unnamed_classes as unnamed_classes
from .unnamed import unnamed_message as unnamed_message
