from .cross_site import SAFE_METHODS as SAFE_METHODS
from .cross_site import origin_of as origin_of
from .cross_site import refusal as refusal
from .refusals import record_refusal as record_refusal
from .serve import guard as guard
from .serve import serve_app as serve_app
from .views import save_views as save_views
