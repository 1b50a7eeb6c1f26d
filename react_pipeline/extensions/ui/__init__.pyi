from .serve import guard as guard
from .serve import serve_app as serve_app
from .views import save_views as save_views
