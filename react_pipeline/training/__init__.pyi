from .customization import customize as customize
from .observer import NoObserver as NoObserver
from .observer import TrainingObserver as TrainingObserver
