from .cost import StepCost as StepCost
from .cost import head_step_seconds as head_step_seconds
from .customization import customize as customize
from .losses import contrastive_loss as contrastive_loss
from .observer import TrainingObserver as TrainingObserver
