"""Labels: the listing of a labelled set, read from a folder or a manifest and joined with a
domain's classes by name.

Every fault of a listing is in one error. Does not belong here: reading an image, publishing a set
(`labelled`).
"""

import io
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.corpus import IMAGE_SUFFIXES
from react_pipeline.settings import DomainConfig
from react_pipeline.store import MAX_JSON_BYTES, InputError, read_bounded

_MOST_LISTED = 50
_CELL_BYTES = 64
_MAX_COLUMNS = 1_000


def read_folder(root: Path, domain: DomainConfig) -> tuple[pd.DataFrame, int]:
    """List a folder with one subfolder a class, matched with the domain's classes by id, name or
    synonym.

    Case, spaces, underscores and hyphens do not matter in the match. Images may be nested deeper in
    a class's folder; files of other kinds are counted and left out.

    Returns:
        Columns path (relative, with /), class; and how many files were left out.

    Raises:
        InputError: Listing every subfolder that is not a class, and images outside any subfolder.
    """
    by_name = classes_by_name(domain)
    classes, strays, ignored = images_by_folder(root, IMAGE_SUFFIXES)
    problems = [f"{name}: an image outside of any class's folder" for name in strays]
    problems += [
        f"{name}: no class has this name (or id)" for name in classes if normal(name) not in by_name
    ]
    if problems:
        names = ", ".join(domain.class_names)
        raise InputError(
            f"{root}: rename or remove these, or correct the classes of {domain.slug!r} ({names}):\n"
            f"{list_problems(problems)}"
        )
    images = [(path, by_name[normal(name)]) for name, paths in classes.items() for path in paths]
    if not images:
        raise InputError(f"{root}: no image in any subfolder; it needs one subfolder a class")
    rows = [(path.relative_to(root).as_posix(), class_name) for path, class_name in images]
    return pd.DataFrame(rows, columns=["path", "class"]), ignored


def images_by_folder(
    root: Path, suffixes: Collection[str]
) -> tuple[dict[str, list[Path]], list[str], int]:
    """List the images below each folder of a root, sorted, by the folder's name; images next to the
    folders; other files.

    Hidden files are not images, and a hidden folder or file of the root is ignored.
    """
    classes: dict[str, list[Path]] = {}
    strays = []
    others = 0
    for entry in sorted(path for path in root.iterdir() if not path.name.startswith(".")):
        if entry.is_dir():
            files = sorted(path for path in entry.rglob("*") if path.is_file())
            images = [
                path
                for path in files
                if path.suffix.lower() in suffixes and not path.name.startswith(".")
            ]
            classes[entry.name] = images
            others += len(files) - len(images)
        elif entry.suffix.lower() in suffixes:
            strays.append(entry.name)
        else:
            others += 1
    return classes, strays, others


def read_manifest(path: Path, domain: DomainConfig) -> pd.DataFrame:
    """Read a manifest: CSV with the columns path (relative to the manifest), class and,
    optionally, subject.

    Returns:
        Columns path, class (in the domain's spelling) and subject where the manifest has it, in its
        order.

    Raises:
        InputError: Listing every bad row by its number; the first row under the header is row 1.
    """
    try:
        # Text stays text: a class may be called "None" or "007".
        table = read_csv(path, dtype=str, keep_default_na=False).fillna("")
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as a CSV table: {text}") from error
    missing = [column for column in ("path", "class") if column not in table.columns]
    if missing:
        raise InputError(
            f"{path}: column {' and '.join(missing)} missing (found: "
            f"{', '.join(map(str, table.columns))}); a manifest needs path and class"
        )
    by_name = classes_by_name(domain)
    rows = []
    problems = []
    first = dict[str, int]()
    entries = zip(table["path"], table["class"], strict=True)
    for number, (name, label) in enumerate(entries, start=1):
        class_name = by_name.get(normal(label))
        if class_name is None:
            problems.append(f"row {number}: class {label!r} is not a class of {domain.slug!r}")
        if not (path.parent / name).is_file():
            problems.append(f"row {number}: no file {name!r}")
        elif (key := os.path.normpath(name)) in first:
            problems.append(f"row {number}: repeats the path of row {first[key]}, {name!r}")
        else:
            first[key] = number
        rows.append((name, class_name))
    if problems:
        raise InputError(f"{path}:\n{list_problems(problems)}")
    if not rows:
        raise InputError(f"{path}: no rows")
    images = pd.DataFrame(rows, columns=["path", "class"])
    if "subject" in table:
        images["subject"] = table["subject"]
    return images


def read_csv(path: Path, **options: Any) -> pd.DataFrame:
    """Read a table as pandas does with `options`.

    Raises:
        OSError, ValueError: If it cannot be read, or its cells would take more than
            `MAX_JSON_BYTES`.
    """
    data = read_bounded(path)
    cells = data.count(b",") + data.count(b"\n")
    columns = data.partition(b"\n")[0].count(b",")
    if cells * _CELL_BYTES > MAX_JSON_BYTES or columns > _MAX_COLUMNS:
        raise ValueError(f"{columns + 1:,} columns and {cells:,} cells are too many")
    return pd.read_csv(io.BytesIO(data), **options)


def normal(name: str) -> str:
    """Return the form in which names of classes are compared."""
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFC", name).casefold())


def list_problems(problems: Sequence[str]) -> str:
    """Return one line for each problem, `_MOST_LISTED` at most."""
    shown = [f"  {problem}" for problem in problems[:_MOST_LISTED]]
    if len(problems) > _MOST_LISTED:
        shown.append(f"  and {len(problems) - _MOST_LISTED} more")
    return "\n".join(shown)


def classes_by_name(domain: DomainConfig) -> dict[str, str]:
    """Return every id, name and synonym that means one class, in its `normal` form, and that class.

    Raises:
        InputError: If two classes have the same one.
    """
    by_name: dict[str, str] = {}
    for name in domain.class_names:
        if (other := by_name.setdefault(normal(name), name)) != name:
            raise InputError(
                f"classes {other!r} and {name!r} of {domain.slug!r} have the same name in a "
                "labelled set"
            )
    times = Counter(map(normal, domain.prompt_names))
    for entry in domain.classes:
        # A name of two classes means neither; their ids are known already.
        for name in (*entry.synonyms, *([entry.name] if times[normal(entry.name)] == 1 else [])):
            by_name.setdefault(normal(name), entry.label)
    return by_name
