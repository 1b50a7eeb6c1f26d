"""The errors that a user of the pipeline can see, and what the system refuses (a file, a database,
memory). Each message says what is wrong, where, and what to do about it.
"""

import errno
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class ReactError(Exception):
    """Base of every error that is expected to reach a user: its text is complete without a
    traceback.
    """


class InputError(ReactError):
    """Input that can never work (a bad file, a wrong value): retrying is useless."""


@dataclass(frozen=True)
class Problem:
    """One fault in a configuration file: `field` is the dotted path inside `file`, and `line` its
    line there, 0 if it is unknown.
    """

    file: Path
    field: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        """One line, `file:line: field: message`."""
        where = f"{self.file}:{self.line}" if self.line else str(self.file)
        return ": ".join(filter(None, (where, self.field, self.message)))


class ConfigError(InputError):
    """Every problem found in the configuration, in one error."""

    def __init__(self, problems: list[Problem]) -> None:
        """Keep the `problems`; the text lists them one per line."""
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))

    @classmethod
    def of(cls, file: Path, message: str, field: str = "", line: int = 0) -> Self:
        """Return the error of a single problem."""
        return cls([Problem(file, field, message, line)])


class NotCurrent(InputError):  # noqa: N818 - reads as the state it reports
    """An artifact that has to be materialized; `place` is its stage and key."""

    def __init__(self, text: str, place: tuple[str, str] | None = None) -> None:
        """Keep the `place`; None if several artifacts are meant."""
        self.place = place
        super().__init__(text)


class MissingArtifact(NotCurrent):
    """An artifact that a step needs has never been built."""


class StaleArtifact(NotCurrent):
    """An artifact exists but was built from other inputs than today's."""

    def __init__(self, text: str, place: tuple[str, str] | None = None, today: str = "") -> None:
        """Keep `today`, the digest of what a stage that gathers results would be made from."""
        self.today = today
        super().__init__(text, place)


class CorruptArtifact(ReactError):  # noqa: N818
    """A published artifact does not match its manifest; the text names the asset to
    rematerialize.
    """


class StoreWriteError(ReactError):
    """The disk refused a write (full, I/O error); nothing was published."""


class CorpusError(InputError):
    """The corpus cannot be used: no shard, a broken shard, too many bad samples."""


class SourceUnavailable(ReactError):  # noqa: N818
    """A server or object store does not answer, or not for long enough: a later try may succeed."""


class ChangedSource(CorpusError):  # noqa: N818
    """A file outside the store is gone, or is not the one that was published. Put back, it is right
    again.
    """


class RetrievalError(InputError):
    """The retrieved set is empty or starves some class."""


class TrainingError(ReactError):
    """Training diverged or cannot run; no checkpoint was published."""


def error_from_text(name: str, text: str) -> ReactError:
    """Return an error of another process as the class of this module with its name, else as a
    `ReactError`.
    """
    kind = InputError if name == ConfigError.__name__ else globals().get(name)  # made of problems
    if isinstance(kind, type) and issubclass(kind, ReactError):
        return kind(text)
    return ReactError(text)


NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_SPACE = "free space"
_REMEDIES = {
    **dict.fromkeys(NOT_WRITABLE, "make it writable, or use another folder"),
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "raise the limit of file sizes (`ulimit -f`)",
    errno.EMFILE: "raise the limit of open files (`ulimit -n`) to 1,024 or more",
    errno.ENFILE: "end other programs: the machine has no more open files",
    errno.ENOMEM: "end what else uses memory, or use a machine with more",
}


def refusal_in(error: BaseException) -> str:
    """Return what the system refused in this error or in one that it was raised from, and what to
    do; "" if nothing.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in _REMEDIES:
            name = link.filename or "a file or the output"
            return f"{name}: {link.strerror}; {_REMEDIES[link.errno]}"
        if isinstance(link, MemoryError):
            return f"out of memory; {_REMEDIES[errno.ENOMEM]}"
        if isinstance(link, sqlite3.OperationalError) or type(link) is sqlite3.DatabaseError:
            return (
                f"a database of Dagster or MLflow: {link}; make its folder writable, free space, "
                "end the process that holds it, or, if it is damaged, restore or remove it: it "
                "holds history, and no result"
            )
        link = link.__cause__ or link.__context__
    return ""
