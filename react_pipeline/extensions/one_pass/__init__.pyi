from .together import passes_of as passes_of
