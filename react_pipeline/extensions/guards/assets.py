"""The asset of guard sets, for Dagster."""

from react_pipeline.assets import asset_text


@asset_text
def guard_results() -> None:
    """One checkpoint on labelled sets outside the domain: what customizing it cost elsewhere.

    Classes are those of each set. The comparison shows the loss against the base, and
    `promotion.max_drop` holds a model back that loses more.
    """
