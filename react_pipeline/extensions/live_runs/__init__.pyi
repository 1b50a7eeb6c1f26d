from .live import LiveRun as LiveRun
from .training_probe import labelled_accuracy as labelled_accuracy
