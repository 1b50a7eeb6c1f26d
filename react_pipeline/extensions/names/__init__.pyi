from .lexical import SAID as SAID
from .lexical import named_prompts as named_prompts
from .name_counts import COUNTS as COUNTS
from .name_counts import count_in_corpus as count_in_corpus
from .name_counts import domain_names as domain_names
from .name_counts import names_of as names_of
from .name_counts import said_in_corpus as said_in_corpus
from .unnamed import unnamed_classes as unnamed_classes
