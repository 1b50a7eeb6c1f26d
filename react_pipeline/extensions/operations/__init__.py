"""Operations: backups, and a schedule that removes what is old."""
