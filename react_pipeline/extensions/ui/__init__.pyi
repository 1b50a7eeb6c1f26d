from .serve import guard as guard
from .serve import serve_app as serve_app
