"""Retries: which errors may pass, and how a step that fails shows it.

Does not belong here: what the store remembers of a failure (`failures`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from react_pipeline.failures import Kind
from react_pipeline.stop import requested
from react_pipeline.store import (
    NOT_WRITABLE,
    ChangedSource,
    MissingArtifact,
    ReactError,
    SourceUnavailable,
    StaleArtifact,
    StoreWriteError,
    refusal_in,
)

TRANSIENT = (OSError, SourceUnavailable, StoreWriteError)
"""Transient faults: the network, a full disk. Everything else fails the same way again."""

PASSING = (MissingArtifact, StaleArtifact, ChangedSource)
"""Errors of what a step is made from, which was right when it was asked for and may be so again."""

STOPS = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)

RETRIES = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
"""How a step is tried again; delay in seconds."""

INTERRUPTED = "interrupted"
"""The message of a step that was cancelled, from the UI or by Ctrl-C."""


def classify_error(error: BaseException) -> Kind:
    """Return whether trying again may help."""
    if isinstance(error, STOPS) or requested():
        # Another error, such as one of C++, may have replaced the exception of a stop.
        return Kind.INTERRUPTED
    if isinstance(error, PASSING):
        return Kind.PASSING
    is_refused = isinstance(error, OSError) and error.errno in NOT_WRITABLE
    return Kind.TRANSIENT if isinstance(error, TRANSIENT) and not is_refused else Kind.LASTING


@contextmanager
def readable_failures() -> Iterator[None]:
    """Turn errors into failures that show their text and are retried only if that may help."""
    try:
        yield
    except BaseException as error:
        kind = classify_error(error)
        if kind is Kind.INTERRUPTED:
            # Dagster would try the step again: its retry policy holds for interruptions too.
            raise dg.Failure(INTERRUPTED, allow_retries=False) from error
        if (
            kind is Kind.TRANSIENT
            or isinstance(error, dg.Failure)
            or not isinstance(error, Exception)
        ):
            raise
        text = str(error) if isinstance(error, ReactError) else refusal_in(error)
        text = text or f"{type(error).__name__}: {error}"
        raise dg.Failure(text, allow_retries=False) from error
