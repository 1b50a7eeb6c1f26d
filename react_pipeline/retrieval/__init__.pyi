from .control import draw_control as draw_control
from .decontamination import leaked_images as leaked_images
from .name_counts import domain_names as domain_names
from .rendered_text import text_fraction as text_fraction
from .retrieve import retrieve_pairs as retrieve_pairs
from .search import draw_pairs as draw_pairs
from .search import search_pairs as search_pairs
