from .labelled_accuracy import labelled_accuracy as labelled_accuracy
from .live import LiveRun as LiveRun
