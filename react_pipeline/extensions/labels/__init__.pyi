from .seeds import put_in_classes as put_in_classes
