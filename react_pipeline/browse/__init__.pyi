from .serve import serve_corpus as serve_corpus
