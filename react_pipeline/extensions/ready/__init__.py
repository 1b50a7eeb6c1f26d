"""Ready embeddings as a corpus: published vectors, metadata and FAISS indices, used where
they are.
"""
