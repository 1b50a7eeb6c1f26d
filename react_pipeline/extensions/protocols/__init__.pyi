from .protocols import checkpoint_of as checkpoint_of
from .protocols import load_model as load_model
from .protocols import read_all as read_all
from .protocols import require_encoder as require_encoder
from .protocols import results_to_compare as results_to_compare
