"""Artifacts that mean nothing, for tests of the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from react_pipeline.store import Artifact, Bucket, Inputs, Store

of_a_folder = pytest.mark.parametrize("store", ["folder"], indirect=True)
"""A test of the files in a folder."""


def inputs(value: int = 1, stage: str = "thing", key: str = "all", **parents: Artifact) -> Inputs:
    return Inputs(stage, key, {"value": value}, parents, "1")


def write(folder: Path, _: object = None, text: str = "data") -> dict[str, int]:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "sub" / "data").write_text(text)
    (folder / "more").write_text("more")
    return {"rows": 1}


def publish(store: Store, value: int = 1, stage: str = "thing", **parents: Artifact) -> Artifact:
    return store.build(inputs(value, stage, **parents), write)


def elsewhere(store: Store, host: str = "there") -> Store:
    """The same store as another host sees it."""
    if isinstance(store.backend, Bucket):
        return Store(replace(store.backend, home=store.root.parent / host))
    return Store(store.root)
