from .fused_tower import write_graph as write_graph
