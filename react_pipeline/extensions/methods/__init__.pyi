from .head_method import HeadMethod as HeadMethod
from .head_method import all_but as all_but
from .head_samples import HeadSamples as HeadSamples
from .head_samples import PairVectors as PairVectors
from .head_samples import label_pairs as label_pairs
