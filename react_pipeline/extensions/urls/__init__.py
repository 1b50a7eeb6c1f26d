"""Tables of URLs as a corpus: the images are fetched when they are retrieved."""
