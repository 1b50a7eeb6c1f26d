from .comparison import VALUES as VALUES
from .comparison import compare_figures as compare_figures
from .comparison import publish_comparison as publish_comparison
from .protocols import checkpoint_of as checkpoint_of
from .protocols import load_model as load_model
from .protocols import read_all as read_all
from .protocols import read_form as read_form
from .protocols import require_encoder as require_encoder
