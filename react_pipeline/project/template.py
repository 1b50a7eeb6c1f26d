"""The files of a new project: the demo's, as the wheel carries them (in a clone links to its own),
and `init`'s.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from react_pipeline.pages import render
from react_pipeline.settings import FOLDER_PREFIX, HUB_PREFIX
from react_pipeline.store import InputError, write_atomically

FOLDER = Path(__file__).parent / "files"

DAGSTER_SETTINGS = FOLDER / "dagster.yaml"
"""What a new Dagster home gets."""

_GITIGNORE = """\
.react/
dagster_home/*
!dagster_home/dagster.yaml
predictions/
"""


def write_demo_project(folder: Path) -> list[Path]:
    """Make a folder the demo's project: `pipeline.yaml` and `domains/`. Files that are there are
    kept.

    Returns:
        What was written; nothing if the folder has a `pipeline.yaml`, which is written last.

    Raises:
        InputError: If the folder cannot be written.
    """
    if (folder / "pipeline.yaml").exists():
        return []
    return _write(folder, _demo_files())


def write_project(folder: Path, corpus: str, encoder: str) -> list[Path]:
    """Make a folder a project and return what was written. Files that are there are kept.

    Args:
        corpus: A kind of corpus, or `datacomp`: the published embeddings of DataComp.
        encoder: `MODEL/PRETRAINED`, or a whole model, `hf-hub:organization/name` or
            `local-dir:folder`; the demo's corpus has its own.

    Raises:
        InputError: If the folder is a project already, or cannot be written.
    """
    if (folder / "pipeline.yaml").exists():
        raise InputError(f"{folder / 'pipeline.yaml'}: already exists; choose another folder")
    if corpus == "demo":
        files = _demo_files()
    else:
        whole = encoder.startswith((HUB_PREFIX, FOLDER_PREFIX))
        model, _, pretrained = (encoder, "", "") if whole else encoder.partition("/")
        if not (whole or (model and pretrained)):
            raise InputError(
                f"--encoder {encoder!r}: write MODEL/PRETRAINED, such as ViT-B-32/openai, "
                f"{HUB_PREFIX}ORGANIZATION/NAME or {FOLDER_PREFIX}FOLDER"
            )
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:60] or "react"
        # JSON's texts are YAML's too.
        texts = {"name": name, "model": model, **({"pretrained": pretrained} if pretrained else {})}
        values = {key: Markup(json.dumps(text)) for key, text in texts.items()}  # noqa: S704
        files = {
            "domains/birds.yaml": render("project", "birds.yaml"),
            "pipeline.yaml": render("project", "pipeline.yaml", corpus=corpus, **values),
        }
    home = DAGSTER_SETTINGS.read_text(encoding="utf-8")
    return _write(folder, {".gitignore": _GITIGNORE, "dagster_home/dagster.yaml": home, **files})


def _demo_files() -> dict[str, str]:
    sources = [*sorted((FOLDER / "domains").glob("*.yaml")), FOLDER / "pipeline.yaml"]
    return {
        str(source.relative_to(FOLDER)): source.read_text(encoding="utf-8") for source in sources
    }


def _write(folder: Path, files: Mapping[str, str]) -> list[Path]:
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
