"""The lineage of a tiny project in a folder of its own: its inputs, its tasks, and what an
undisturbed run leaves.

Everything that a task reads is below the folder, by relative paths, so that a copy of the folder is
another project.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from conftest import DOMAINS, write_checkpoint, write_project
from open_clip.model import CLIP
from support.drawings import write_corpus, write_evaluation_folder
from support.training import FIELDS

from react_pipeline import settings
from react_pipeline.project import Project
from react_pipeline.stage import STAGES
from react_pipeline.store import CURRENT, MANIFEST

SLUG, METHODS = "shapes", ("base", "gated-image", "gated-image-control")
TASKS = [
    (stage.name, key)
    for stage in STAGES.values()
    if stage.group not in ("benchmark", "dense") and stage.name != "retrieval_checkpoint"
    for key in stage.keys([SLUG], {name: settings.METHODS[name] for name in METHODS})
]


def write_inputs(folder: Path) -> None:
    """A corpus of 96 drawings, a CLIP of one layer, labelled images, and the files that
    name them.
    """
    inputs = folder / "inputs"

    def pack(model: CLIP) -> None:
        # As large as the rest, and small when it is packed (`tests/golden`).
        model.token_embedding.weight.data.sign_().mul_(0.5)

    write_checkpoint(inputs / "checkpoint", dimension=16, width=16, layers=1, finish=pack)
    write_corpus(inputs / "shards")
    write_evaluation_folder(inputs / "evaluation" / SLUG, ["circle", "square", "triangle", "cross"])
    write_project(
        folder,
        inputs / "checkpoint",
        inputs,
        # Kept tokens, so that there is something to resume.
        customization={"defaults": {**FIELDS, "last_k_layers": 1, "held_out_fraction": 0.2}},
    )
    for slug in DOMAINS:
        if slug != SLUG:
            (folder / "domains" / f"{slug}.yaml").unlink()
    for path, to in ((folder / "pipeline.yaml", ""), (folder / "domains" / f"{SLUG}.yaml", "../")):
        path.write_text(path.read_text().replace(f"{folder}/", to))


def run(folder: Path, first: int = 0, last: int = len(TASKS)) -> None:
    """Materialize some tasks, as a launch does: the first error ends it."""
    project = Project.load(folder / "pipeline.yaml")
    for stage, key in TASKS[first:last]:
        STAGES[stage].step(project, *([] if key == "all" else key.split("/")))


def forget() -> None:
    """As in a new process: nothing verified, nothing loaded."""
    from react_pipeline.clip import loaded_base
    from react_pipeline.store import durable

    durable._known.cache_clear()
    loaded_base.cache_clear()


class _Reversed(ExitStack):
    """The entries of a folder, the last name first."""

    def __init__(self, *place: Any) -> None:
        super().__init__()
        with _scandir(*place) as entries:
            self._entries = sorted(entries, key=lambda entry: entry.name)

    def __iter__(self) -> _Reversed:
        return self

    def __next__(self) -> Any:
        if self._entries:
            return self._entries.pop()
        raise StopIteration


_scandir, _listdir = os.scandir, os.listdir


def move_away() -> None:
    """Let this process be on another machine: with another time zone, and with folders that list
    their files in another order.
    """
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    os.scandir = _Reversed
    os.listdir = lambda *place: sorted(_listdir(*place), reverse=True)


def published(folder: Path, last: int = len(TASKS)) -> dict[str, str]:
    """The fingerprint of each task and the digest of each of its files, by name.

    Raises:
        MissingArtifact: If one is missing.
        CorruptArtifact: If one is damaged.
    """
    store, found = Project.load(folder / "pipeline.yaml").store, dict[str, str]()
    for stage, key in TASKS[:last]:
        artifact = store.current(stage, key)
        found[f"{stage} {key}"] = artifact.fingerprint
        for name, recorded in artifact.manifest["files"].items():
            found[f"{stage} {key} {name}"] = recorded["sha256"]
    return found


def torn(folder: Path) -> list[str]:
    """Whatever is visible and not whole: artifacts against their manifests, and pointers."""
    store = Project.load(folder / "pipeline.yaml").store
    found = [str(error) for _, error in store.verify() if error is not None]
    for pointer in store.root.glob("[!.]*/**/" + CURRENT):
        name = pointer.read_text().strip()
        if not name or not (pointer.parent / name / MANIFEST).exists():
            found.append(f"{pointer}: names no artifact")
    return found


def left_over(folder: Path) -> list[str]:
    """Names of what no later run uses: scratch, and attempts that `prune` does not remove."""
    store = Project.load(folder / "pipeline.yaml").store
    scratches = {path.name for path in store.root.glob(".scratch/*")}
    # As if the days had passed for which attempts stay.
    with patch("react_pipeline.store.pruning.RETENTION_SECONDS", -3_600):
        store.prune(keep_seconds=-3_600)
    attempts = {
        str(path)
        for path in store.root.glob("[!.]*/**/_????????????????")
        if json.loads((path.parent / MANIFEST).read_bytes())["attempt"] != path.name
    }
    return sorted(scratches | attempts)


def draw_nothing() -> None:
    """Charts are half of the time of this lineage: a white one is written in their place, by the
    same calls.
    """
    from matplotlib.figure import Figure
    from PIL import Image

    def savefig(_: Figure, path: Any, **__: Any) -> None:
        Image.new("RGB", (8, 8), "white").save(path)

    Figure.savefig = savefig
