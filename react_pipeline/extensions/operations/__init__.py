"""Operations: commands that prune and verify the store."""
