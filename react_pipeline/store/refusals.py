"""Refusals of the system: a file, a database or memory that it does not give, as one line.

Does not belong here: our own errors (`errors`), which say it themselves.
"""

import errno
import sqlite3

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
_OF_DATABASES = {
    **dict.fromkeys(
        (
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_FULL,
            sqlite3.SQLITE_IOERR,
        ),
        "make its folder writable, free space, or raise `ulimit -f`",
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "end the process that holds it, or wait"
    ),
    **dict.fromkeys(
        (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB),
        "restore it, or remove it: it holds history, and no result",
    ),
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
        # The low byte is the code itself, the others are details.
        code = getattr(link, "sqlite_errorcode", 0) & 0xFF
        if isinstance(link, sqlite3.Error) and code in _OF_DATABASES:
            return f"a database of Dagster or MLflow: {link}; {_OF_DATABASES[code]}"
        link = link.__cause__ or link.__context__
    return ""
