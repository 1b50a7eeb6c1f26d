"""Refusals of the system: a file or database that cannot be written, as one line.

Does not belong here: our own errors (`errors`), which say it themselves.
"""

import errno
import sqlite3

NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_OF_DATABASES = frozenset(
    {
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }
)


def refusal_in(error: BaseException) -> str:
    """What the system refused in this error or in one that it was raised from, and what to do; ""
    if nothing.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.errno in NOT_WRITABLE | _DISK_FULL:
            remedy = (
                "free space"
                if link.errno in _DISK_FULL
                else "make it writable, or use another folder"
            )
            return f"{link.filename or 'a file'}: {link.strerror}; {remedy}"
        # The low byte is the code itself, the others are details.
        if (
            isinstance(link, sqlite3.Error)
            and getattr(link, "sqlite_errorcode", 0) & 0xFF in _OF_DATABASES
        ):
            return (
                f"a database of Dagster or MLflow: {link}; make its folder writable, or free space"
            )
        link = link.__cause__ or link.__context__
    return ""
