"""A training in the process of its asset, with its progress in the log of the run.

Does not belong here: the training itself (`react_pipeline.training`), its losses in MLflow while it
runs (`extensions.live_runs`).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from react_pipeline.assets.resources import Context
from react_pipeline.extensions.live_runs import LiveRun
from react_pipeline.project import Project
from react_pipeline.store import Artifact, InputError, Inputs
from react_pipeline.training import TrainingObserver

PROGRESS_SECONDS = 10.0


class Progress(TrainingObserver):
    """Writes the progress of a training to the run's log, and passes everything on to MLflow."""

    def __init__(self, observer: TrainingObserver, report: Callable[[str], None]) -> None:
        """Follow a training.

        Args:
            observer: Sees each step, too.
            report: Called with one line, every `PROGRESS_SECONDS` at the most.
        """
        self._observer = observer
        self._report = report
        self._reported = 0.0
        self._url_reported = False
        self._steps = 0

    def started(self, inputs: Inputs, first_step: int) -> None:
        """Report whether it begins or resumes."""
        self._steps = int(inputs.config.get("steps", 0))
        start = f"resuming at step {first_step}" if first_step else "from the start"
        self._report(f"training {inputs.key}: {start}")
        self._observer.started(inputs, first_step)

    def stepped(self, record: Mapping[str, float]) -> None:
        """Report progress from time to time."""
        self._observer.stepped(record)
        # A closed form has no steps.
        if not self._steps or time.monotonic() - self._reported < PROGRESS_SECONDS:
            return
        self._reported = time.monotonic()
        speed = (
            f", {record['images_per_second']:g} images/s" if "images_per_second" in record else ""
        )
        self._report(
            f"step {int(record['step']) + 1} of {self._steps}: loss {record['loss']:.4g}{speed}"
        )
        if self._observer.url and not self._url_reported:
            self._url_reported = True
            self._report(f"MLflow: {self._observer.url}")

    def failed(self, error: BaseException) -> None:
        """Pass the error on; the caller of the training logs it."""
        self._observer.failed(error)


def processes_of(project: Project, slug: str, method: str) -> int:
    """How many processes this machine trains a method with."""
    return project.training(slug, method).processes if project.method(method).spreads else 1


def customize_here(context: Context, project: Project, slug: str, method: str) -> Artifact:
    """Customize in this process; its progress is in the run's log.

    Raises:
        InputError: If several processes are configured, which only an extension starts.
    """
    if (processes := processes_of(project, slug, method)) > 1:
        raise InputError(
            f"customization.processes is {processes}, and no extension that starts processes could "
            "be loaded (see `react-pipeline doctor`); correct that, or set it to 1"
        )
    from react_pipeline.training import customize  # loads torch

    with observed(project, context.run.run_id, context.log.info) as observer:
        return customize(project, slug, method, observer)


@contextmanager
def observed(
    project: Project, run_id: str, report: Callable[[str], None]
) -> Iterator[TrainingObserver]:
    """Observe a training: its steps are written to the run's log, and to MLflow while it runs."""
    with LiveRun.of(project, run_id) as live:
        yield Progress(live, report)
