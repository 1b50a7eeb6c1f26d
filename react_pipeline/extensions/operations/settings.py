"""Configuration of retention: the section `retention` of `pipeline.yaml`."""

from __future__ import annotations

from pydantic import Field

from react_pipeline.settings import Section


class RetentionConfig(Section):
    """The limits of the job `retention`, used when its schedule is switched on.

    Attributes:
        run_days: Runs of Dagster that ended longer ago, with their logs; those that made what is
            shown now stay.
        artifact_days: Artifacts that were replaced longer ago and nothing current was made from.
    """

    run_days: float = Field(default=180, ge=1)
    artifact_days: float = Field(default=30, ge=1)
