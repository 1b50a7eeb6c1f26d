from .results import compare_dense as compare_dense
from .results import publish_dense as publish_dense
from .sets import read_dense_set as read_dense_set
