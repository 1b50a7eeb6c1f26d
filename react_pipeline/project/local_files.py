"""Local files by path and pattern, as `pipeline.yaml` names them: for the steps, and for looks at
what has changed.

Does not belong here: which names are allowed and what a range expands to
(`settings.addresses`).
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from react_pipeline.settings import did_you_mean, expand, has_wildcard
from react_pipeline.store import CorpusError


def find_files(patterns: Iterable[str], suffixes: tuple[str, ...], field: str) -> list[Path]:
    """Find the files of absolute paths and patterns (`matches`) with one of the suffixes, such as
    `.tar`, each once.

    They are in the order of the patterns, sorted in each.

    Raises:
        CorpusError: Naming the field of `pipeline.yaml` and the pattern that is wrong or finds no
            such file.
    """
    unique_files: dict[Path, Path] = {}
    for pattern in patterns:
        try:
            for name, paths in matches(Path(pattern)):
                files = [path for path in paths if path.suffix in suffixes and path.is_file()]
                if not files:
                    problem = absence(name) or f"finds no {' or '.join(suffixes)} file"
                    raise CorpusError(f"{field}: {str(name)!r}: {problem}")
                for file in files:
                    if (shown := escape_name(file)) != str(file):
                        raise CorpusError(f"{field}: {shown}: its name is not UTF-8; rename it")
                    unique_files.setdefault(file.resolve(), file)
        except (ValueError, OSError) as error:
            raise CorpusError(f"{field}: {error}") from error
    return list(unique_files.values())


def absence(path: Path) -> str:
    """Return which file or folder of a path without wildcards is not there, and the nearest name;
    "" if it is there.
    """
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    if missing.exists() or has_wildcard(missing.name) or "?" in missing.name:
        return ""
    beside = (entry.name for entry in missing.parent.iterdir()) if missing.parent.is_dir() else ()
    meant = did_you_mean(missing.name, beside)
    return f"there is no file or folder {escape_name(missing)}{f'; {meant}' if meant else ''}"


def matches(pattern: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each name that the ranges of a path or pattern (`*`, `?`, `[]`, `{a,b}`, `{00..99}`)
    give, and what it matches.

    Raises:
        ValueError: If a range is wrong.
    """
    root = pattern
    # Only a name that does not exist literally is a pattern: a folder may be called `[2024]` or
    # `{a}`.
    while not root.exists():
        root = root.parent
    for inside in ["."] if root == pattern else expand(str(pattern.relative_to(root))):
        # A literal name is looked at by itself: to list a folder of a million files for each of
        # them is slow.
        is_listed = has_wildcard(inside) or "?" in inside
        yield root / inside, sorted(root.glob(inside)) if is_listed else [root / inside]


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder, in a stable order; links to folders are not followed.

    Raises:
        CorpusError: If a folder cannot be read.
    """
    for directory, below, files in os.walk(folder, onerror=_refuse):
        below.sort()
        # A named pipe would be waited for without end, and a device may have none.
        yield from filter(Path.is_file, (Path(directory, name) for name in sorted(files)))


def _refuse(error: OSError) -> None:
    raise CorpusError(f"{error.filename}: cannot be read ({error.strerror or error})") from error


def escape_name(name: object) -> str:
    """Return a file's name as text; bytes that are no UTF-8, which Python keeps as surrogates, are
    escaped.
    """
    return str(name).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a file below a folder is a link to one that is not."""
    return path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(
        os.path.realpath(folder)
    )
