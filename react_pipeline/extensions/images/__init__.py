"""A corpus of images that are in no tar: folders with captions, and parquet files."""
