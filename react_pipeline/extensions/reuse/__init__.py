"""Shards that were embedded before are linked, so that a corpus that grows is not encoded again."""
