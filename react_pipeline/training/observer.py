"""Observers: who follows a training while it runs, so that the library needs neither MLflow nor
Dagster.
"""

from collections.abc import Mapping

from react_pipeline.store import Inputs


class TrainingObserver:
    """Follows one training in the process that writes its artifact; this one ignores everything.

    An observer never raises.
    """

    @property
    def url(self) -> str | None:
        """Return the page of the training in a browser; None before there is one."""
        return None

    def started(self, inputs: Inputs, first_step: int) -> None:
        """A training begins, or resumes at `first_step` after it was killed."""

    def stepped(self, record: Mapping[str, float]) -> None:
        """A step is done; `record` is one line of `metrics.jsonl` (with `step`), and in addition
        `time_ms` since 1970, speed and memory.
        """

    def failed(self, error: BaseException) -> None:
        """The training stops without a checkpoint."""
