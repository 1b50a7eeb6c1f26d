"""The files of a new project, its Dagster home, and where `react-pipeline ui` answers over it.

Does not belong here: the part of a kind of corpus (`corpus.kinds`), what is in Dagster's instance
(Dagster), or starting anything (`extensions.ui`).
"""

import errno
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import Any

from markupsafe import Markup

from react_pipeline.pages import render
from react_pipeline.settings import METHODS, CorpusConfig, corpus_kinds, did_you_mean
from react_pipeline.store import InputError, lock, write_atomically

DAGSTER_SETTINGS = Path(__file__).parent / "files" / "dagster.yaml"
"""What a new Dagster home gets."""

HOME_VARIABLE = "DAGSTER_HOME"
SETTINGS_FILE = "dagster.yaml"
"""Without it Dagster takes its defaults: no monitoring, retries or retention, and no limit of the
pool.
"""

LOCK_FILE = "ui.lock"
"""Locked while the user interfaces run; says in JSON where they answer."""

_GITIGNORE = """\
.react/
dagster_home/*
!dagster_home/dagster.yaml
predictions/
"""


def templates() -> Mapping[str, type[CorpusConfig]]:
    """Return what `init --corpus` takes: kinds of corpus, and variants of them."""
    return {name: kind for own, kind in corpus_kinds().items() for name in (own, *kind.variants)}


def write_project(folder: Path, corpus: str, *, dg: bool = False) -> list[Path]:
    """Make a folder a project and return what was written. Files that are there are kept.

    Args:
        corpus: One of `templates`.
        dg: Make it a project of Dagster's command `dg` too, with a folder `defs` for assets of
            your own beside these.

    Raises:
        InputError: If the folder is a project already, or cannot be written.
    """
    if (folder / "pipeline.yaml").exists():
        raise InputError(f"{folder / 'pipeline.yaml'}: already exists; choose another folder")
    kinds = templates()
    if corpus not in kinds:
        meant = did_you_mean(corpus, kinds, f"choose from {', '.join(kinds)}")
        raise InputError(f"--corpus {corpus!r}: there is no such kind; {meant}")
    kind = kinds[corpus]
    files = kind.project_files(project_name(folder)) or _files(folder, kind, corpus)
    home = DAGSTER_SETTINGS.read_text(encoding="utf-8")
    files = {".gitignore": _GITIGNORE, f"dagster_home/{SETTINGS_FILE}": home, **files}
    return write_files(folder, {**files, **(_dg_files(folder) if dg else {})})


def project_name(folder: Path) -> str:
    """Return the name of a new project in a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:60] or "react"


def _dg_files(folder: Path) -> Mapping[str, str]:
    name = project_name(folder)
    # An importable name, whatever the folder is called.
    module = "project_" * (not name[0].isalpha()) + re.sub(r"\W", "_", name)
    return {
        "pyproject.toml": render("project", "pyproject.toml", name=name, module=module),
        f"{module}/__init__.py": "",
        f"{module}/definitions.py": render("project", "definitions.txt"),
        f"{module}/defs/react/defs.yaml": render("project", "defs.yaml"),
    }


def _files(folder: Path, kind: type[CorpusConfig], corpus: str) -> Mapping[str, str]:
    # A method that is derived from a default one is another.
    methods = [name for name, method in METHODS.items() if vars(type(method)).get("is_default")]
    # Those that take seconds first.
    methods.sort(key=lambda name: METHODS[name].has_model)
    section = indent(kind.template(corpus), "  ").rstrip()
    pipeline = render(
        "project",
        "pipeline.yaml",
        name=Markup(json.dumps(project_name(folder))),  # noqa: S704 - JSON's texts are YAML's too
        corpus=Markup(section),  # noqa: S704
        methods=", ".join(["base", *methods]),
        has_vectors=kind.fetches_images and not kind.is_listed,
    )
    return {"domains/birds.yaml": render("project", "birds.yaml"), "pipeline.yaml": pipeline}


def write_files(folder: Path, files: Mapping[str, str]) -> list[Path]:
    """Write files into a folder, by name, and return which; those that are there are kept.

    Raises:
        InputError: If the folder cannot be written.
    """
    written = []
    for name, text in files.items():
        target = folder / name
        if target.exists():
            continue
        try:
            write_atomically(target, text.rstrip("\n") + "\n")
        except OSError as error:
            raise InputError(f"{target}: {error.strerror}; choose a folder of your own") from error
        written.append(target)
    return written


def locate_home(project_folder: Path) -> Path:
    """Return the absolute path of the Dagster home: `DAGSTER_HOME`, else `dagster_home` next to
    `pipeline.yaml`.
    """
    if named := os.environ.get(HOME_VARIABLE):
        # Dagster refuses a relative one; it is meant from the folder in which the command runs.
        return Path(named).expanduser().absolute()
    return project_folder / "dagster_home"


def prepare_home(project_folder: Path) -> Path:
    """Make the Dagster home if it is missing, with the package's `dagster.yaml` unless it has one
    of its own, and return it.

    Raises:
        InputError: If it cannot be written.
    """
    home = locate_home(project_folder)
    settings = home / SETTINGS_FILE
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not settings.exists():
            write_atomically(settings, DAGSTER_SETTINGS.read_text(encoding="utf-8"))
        # Its databases would say no more than that they are read-only.
        if not os.access(home, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{HOME_VARIABLE} {home}: {error.strerror}; set it to a folder that you can write to"
        ) from error
    return home


def ui_addresses(home: Path) -> dict[str, str]:
    """Return where `react-pipeline ui` answers over a home, by name; nothing if it does not run."""
    with suppress(OSError), (home / LOCK_FILE).open() as file:
        if lock(file, wait=False):
            return {}  # it was killed
    addresses: dict[str, str] = ui_record(home).get("addresses", {})
    return addresses


def ui_record(home: Path) -> dict[str, Any]:
    """Return what the lock file of a home says; empty where it is missing or empty."""
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads((home / LOCK_FILE).read_text())
        return content if isinstance(content, dict) else {}
    return {}
