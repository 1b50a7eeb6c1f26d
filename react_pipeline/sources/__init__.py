"""Sources: where image-text pairs lie and how their bytes are read: tars, object stores, the web, ready embeddings."""
