"""The columns that judgements add to comparisons; the command line reads them, so this is light."""

from react_pipeline.evaluation import Column

COLUMNS = (
    Column("judged_delta", "judged over base"),
    Column("judged_gain", "judged over control"),
    Column("judged", "pictures judged", is_count=True),
)
