"""What guard sets add to comparisons; loads nothing, since every command reads it."""

from react_pipeline.evaluation import Column

COLUMNS = (Column("guard_delta", "on guard sets, over base"),)
