"""Step lines: what steps report while they run, passed on to whoever launched them.

Belongs here: which records of Dagster's log are such lines. Does not belong here: what a step says of itself
(`reporting`, `react_pipeline.workload`), how a line is printed.
"""

import logging
from collections.abc import Callable

import dagster as dg

CONSOLE = "console"
"""Name of the logger, under which Dagster has its own for people who read a terminal."""


class StepLines(logging.Handler):
    """Calls `on_line` with the lines of steps, and with Dagster's own where one is tried again."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        """Nothing is passed on before a job is given the `definition`."""
        super().__init__()
        self.on_line = on_line

    @property
    def definition(self) -> dg.LoggerDefinition:
        """The logger that a job is given; it needs `{"loggers": {CONSOLE: {}}}` in the configuration of a run."""

        def to_lines(_context: dg.InitLoggerContext) -> logging.Logger:
            logger = logging.Logger(CONSOLE, logging.INFO)
            logger.addHandler(self)
            return logger

        return dg.LoggerDefinition(to_lines, config_schema={}, description="Passes on what steps report.")

    def emit(self, record: logging.LogRecord) -> None:
        """As of `logging.Handler`."""
        about = vars(record).get("dagster_meta", {})
        event = about.get("dagster_event")
        if event is None or event.is_step_up_for_retry:
            self.on_line(" ".join(str(about.get("orig_message", record.msg)).split()))
