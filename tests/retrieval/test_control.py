"""The control set: random pairs, distinct, the same at each draw."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.retrieval import NOTHING, Web, configure, images_of, no_digest_is_known, pairs_of
from support.upkeep import edit_domain

from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import read_metadata
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, leaked_images, retrieve_pairs
from react_pipeline.retrieval.control import draw_pairs
from react_pipeline.retrieval.images import Images
from react_pipeline.settings import RetrievalConfig
from react_pipeline.store import Artifact, RetrievalError

MakeProject = Callable[..., Project]


@pytest.fixture
def project(indexed_project: Project) -> Project:
    publish_evaluation_set(indexed_project, "shapes")
    return indexed_project


def test_a_control_is_as_many_other_pairs_drawn_alike_each_time(
    project: Project, tmp_path: Path
) -> None:
    retrieved = retrieve_pairs(project, "shapes")
    control = draw_control(project, "shapes")
    pairs = pairs_of(control)
    assert control.counts["pairs"] == len(pairs) == retrieved.counts["pairs"]
    assert set(pairs["mode"]) == {"random"} and set(pairs["class"]) == {""}
    assert pairs["row"].is_unique and pairs["image_sha256"].is_unique
    assert set(pairs["row"]) != set(pairs_of(retrieved)["row"])
    assert len(list(CollectedPairs(control))) == len(pairs)
    names = {*project.domain("shapes").class_names}
    naming = sum(not names.isdisjoint(caption.split()) for caption in pairs["caption"])
    assert control.counts["naming_a_class"] == naming > 0
    control.path.rename(tmp_path / "first")
    again = draw_control(project, "shapes")
    assert again.manifest["files"] == control.manifest["files"]


def test_each_seed_has_a_draw_of_its_own(project: Project, make_project: MakeProject) -> None:
    alone = draw_after(project)
    control = draw_control(make_project(seeds=[0, 1]), "shapes")
    other = pd.read_parquet(control.file("seed1/pairs.parquet"))
    assert control.counts["draws"] == {"seed1": len(other)} and "draws" not in alone.counts
    first, second = CollectedPairs(control), CollectedPairs(control, "seed1")
    assert first.rows.tolist() == CollectedPairs(alone).rows.tolist()
    assert len(second) == len(first) and set(second.rows) == set(other["row"]) != set(first.rows)
    again = pickle.loads(pickle.dumps(second))  # noqa: S301 - as the processes of a loader do
    assert again.rows.tolist() == second.rows.tolist()
    alone = draw_control(make_project(seeds=[1]), "shapes")
    files = alone.manifest["files"], control.manifest["files"]
    assert files[0]["pairs.parquet"] == files[1]["seed1/pairs.parquet"]
    # Domains have draws of their own, which are not nested.
    publish_evaluation_set(project, "colours")
    theirs = {*CollectedPairs(draw_after(make_project(), "colours")).rows}
    assert theirs - {*first.rows} and {*first.rows} - theirs


def test_leaks_are_looked_for_in_the_draw_of_each_seed(
    project: Project, make_project: MakeProject, tmp_path: Path
) -> None:
    retrieve_pairs(project, "shapes")
    project = make_project(seeds=[0, 1])
    control = draw_control(project, "shapes")
    first = set(CollectedPairs(control).rows)
    image = next(pair.image for pair in CollectedPairs(control, "seed1") if pair.row not in first)
    folder = tmp_path / "measured" / "circle"
    folder.mkdir(parents=True)
    (folder / "leaked.png").write_bytes(image)
    assert leaked_images(project, "control_set", "shapes").same == 0
    evaluation = {"name": "measured", "kind": "folder", "path": str(folder.parent)}
    edit_domain(project, "shapes", evaluation=evaluation)
    publish_evaluation_set(project, "shapes")
    assert leaked_images(project, "control_set", "shapes").same == 1


def test_rows_are_drawn_until_enough_pass_the_filter(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("react_pipeline.retrieval.control.LEAST_ROWS", 1)
    configure(project, where="number < 10", k_per_prompt=2, max_per_class=1)
    retrieved, control = retrieve_pairs(project, "shapes"), draw_control(project, "shapes")
    assert control.counts["pairs"] == retrieved.counts["pairs"] > 0
    assert control.counts["dropped"]["filtered"] > 0


def drawn(project: Project, images: Images, digests: set[str], size: int = 20) -> Any:
    """Random pairs, less the images of these digests, and what was passed over."""
    evaluation = replace(NOTHING, sha256=frozenset(digests))
    random = np.random.default_rng(0)
    return draw_pairs(images, evaluation, RetrievalConfig(), random, size)


def test_a_corpus_of_which_nothing_can_be_drawn_is_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    retrieve_pairs(project, "shapes")
    digests = read_metadata(project.store.current("corpus_embeddings", "all"))["image_sha256"]
    nothing = drawn(project, images_of(project), set(digests))
    assert nothing[0].empty and nothing[1]["evaluation_image_hash"] == len(digests)
    monkeypatch.setattr("react_pipeline.retrieval.control.draw_pairs", lambda *_: nothing)
    with pytest.raises(RetrievalError, match="can be drawn"):
        draw_control(project, "shapes")


def test_a_fetched_evaluation_image_is_not_drawn(project: Project) -> None:
    rows = range(96)
    web = Web(dict.fromkeys(rows, b""), dict.fromkeys(rows[1::2], "measured"))
    web.identity = "image_path"
    images = images_of(project, web)
    with no_digest_is_known():
        pairs, dropped = drawn(project, images, {"measured"})
    assert len(pairs) == 20 and not (pairs["row"] % 2).any()
    assert dropped["evaluation_image_hash"]


def draw_after(project: Project, slug: str = "shapes") -> Artifact:
    retrieve_pairs(project, slug)
    return draw_control(project, slug)
