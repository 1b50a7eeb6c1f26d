"""What a Dagster user reads of the asset `overview`."""

from react_pipeline.assets import asset_text


@asset_text
def overview() -> None:
    """All domains on one page: the mean gain of each method over the base and over its control, and
    how sure it is.

    It takes the current comparison of every domain; a domain without one is named with the reason.
    A mean says of how many of the domains it is. The page, the tables and the figure are in its
    folder, and in MLflow.
    """
