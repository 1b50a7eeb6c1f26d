"""What all readers do with files: reading small text files, and requiring that the listed images
exist.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from react_pipeline.labelled import Unavailable, lines_of
from react_pipeline.store import InputError, parse_json, read_bounded

from .sources import is_inside, open_zip, split_location


def read_text(path: Path) -> str:
    """A text file in UTF-8, with or without a byte order mark.

    Raises:
        Unavailable: If there is none.
        InputError: If it is not UTF-8 or larger than any index of these data sets.
    """
    try:
        return read_bounded(path).decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unavailable(f"{path} is missing") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start:,}); convert it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        Unavailable: If there is none.
        InputError: If it cannot be parsed.
    """
    text = read_text(path)
    try:
        return parse_json(text.encode())
    except ValueError as error:
        raise InputError(
            f"{path}: the JSON is truncated or damaged ({error}); copy it again"
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without blank ones."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def require_images(root: Path, locations: Sequence[str], where: Path) -> None:
    """Require that every location is a file below `root` or a member of an archive there.

    Raises:
        Unavailable: Naming the archives that are missing.
        InputError: Listing locations that are outside the root or do not exist.
    """
    archives = {
        archive for archive, _ in map(split_location, locations) if archive and is_inside(archive)
    }
    if missing := sorted(archive for archive in archives if not (root / archive).is_file()):
        raise Unavailable(f"{where} names {', '.join(missing)}, missing in {root}")
    members = {archive: open_zip(root / archive).NameToInfo for archive in archives}
    problems = []
    for location in locations:
        archive, member = split_location(location)
        if not is_inside(member) or not is_inside(archive or member):
            problems.append(f"{location!r}: is outside {root}")
        elif archive is None and not (root / member).is_file():
            problems.append(f"{location!r}: no such file")
        elif archive is not None and member not in members[archive]:
            problems.append(f"{location!r}: the archive has no such member")
    if problems:
        raise InputError(f"{where}: {len(problems)} images cannot be found\n{lines_of(problems)}")
