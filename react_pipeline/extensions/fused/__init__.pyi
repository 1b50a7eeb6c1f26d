from .fused_tower import fuse as fuse
from .fused_tower import write_graph as write_graph
