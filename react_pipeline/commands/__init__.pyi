from .servers import serve as serve
