"""Tables of URLs as a corpus: the images are downloaded once, into tar shards."""
