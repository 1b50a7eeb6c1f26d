"""Operations: a schedule that removes what is old, and commands on the store."""
