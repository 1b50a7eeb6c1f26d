"""Local files by path and pattern, as `corpus.shards` and `corpus.urls` name them.

Belongs here: finding files on disk. Does not belong here: which names are allowed and what a range expands to
(`shard_patterns`), files on a server (`remote`).
"""

from collections.abc import Iterable
from pathlib import Path

from react_pipeline.settings import expand, has_wildcard
from react_pipeline.store import CorpusError


def find_files(patterns: Iterable[str], suffixes: tuple[str, ...], field: str) -> list[Path]:
    """The files of absolute paths and patterns: in the order of the patterns, sorted in each, each file once.

    Args:
        patterns: Paths, or patterns with `*`, `?`, `[]`, `{a,b}` and `{00..99}`.
        suffixes: Which files are meant, such as `.tar`; others are passed over.
        field: Of `pipeline.yaml`, for the message.

    Raises:
        CorpusError: Naming the field and the pattern that finds no such file.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        path = Path(pattern)
        root = path
        # Only a name that does not exist literally is a pattern: a folder may be called `[2024]` or `{a}`.
        while not root.exists():
            root = root.parent
        for inside in ["."] if root == path else expand_names(str(path.relative_to(root)), field):
            # A literal name is looked at by itself: to list a folder of a million files for each of them is slow.
            matches = root.glob(inside) if has_wildcard(inside) or "?" in inside else [root / inside]
            files = sorted(match for match in matches if match.suffix in suffixes and match.is_file())
            if not files:
                kinds = " or ".join(suffixes)
                raise CorpusError(
                    f"{field}: {str(root / inside)!r} finds no {kinds} file; give {kinds} files or patterns such as "
                    f"data/*{suffixes[0]}"
                )
            for file in files:
                found.setdefault(file.resolve(), file)
    return list(found.values())


def expand_names(pattern: str, field: str) -> list[str]:
    """The names that the ranges of a pattern expand to.

    Raises:
        CorpusError: If a range is wrong, naming the field.
    """
    try:
        return expand(pattern)
    except ValueError as error:
        raise CorpusError(f"{field}: {error}") from error
