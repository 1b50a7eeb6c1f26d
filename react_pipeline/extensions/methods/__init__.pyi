from .head import HeadSamples as HeadSamples
from .head_method import HeadMethod as HeadMethod
from .head_method import all_but as all_but
from .head_samples import nearest_class as nearest_class
