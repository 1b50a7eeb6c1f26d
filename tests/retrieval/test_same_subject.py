"""`same_subject: exclude`: pairs that show the very thing of an evaluation image are never trained
on.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from support.drawings import evaluation_image, pair, write_shard
from support.retrieval import pairs_of
from support.upkeep import edit_domain

from react_pipeline.embedding import read_metadata
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.lineage import fresh_or_none, run
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, leaked_images, retrieve_pairs
from react_pipeline.store import InputError

COLOURS = ("red", "blue", "green")


def write_shards(path: Path, *, subjects: bool) -> Path:
    """Circles and squares of three colours, eight of each; `subject` is the colour."""
    samples = {}
    for shape, colour, seed in product(("circle", "square"), COLOURS, range(8)):
        fields = {"subject": colour} if subjects else {}
        samples[f"{shape}-{colour}-{seed}"] = pair(shape, colour, seed, **fields)
    return write_shard(path, samples)


def write_manifest(folder: Path, *, subjects: bool) -> Path:
    folder.mkdir(parents=True)
    rows = [["path", "class", "subject"], ["0.png", "circle", "red"], ["1.png", "square", ""]]
    for number, (_, shape, _) in enumerate(rows[1:]):
        evaluation_image(shape, number).save(folder / f"{number}.png")
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows if subjects else [row[:2] for row in rows])
    return folder / "manifest.csv"


def configure(project: Project, manifest: Path, same_subject: str = "exclude") -> None:
    retrieval = {"k_per_prompt": 48, "max_per_class": 48, "same_subject": same_subject}
    evaluation = {"name": "drawn", "kind": "manifest", "path": str(manifest)}
    edit_domain(project, "shapes", retrieval=retrieval, evaluation=evaluation)


def built(
    make_project: Callable[..., Project],
    tmp_path: Path,
    corpus: bool = True,
    images: bool = True,
) -> Project:
    write_shards(tmp_path / "pairs" / "0.tar", subjects=corpus)
    project = make_project(corpus={"shards": [str(tmp_path / "pairs" / "0.tar")]})
    configure(project, write_manifest(tmp_path / "drawn", subjects=images))
    for stage in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
        run(project, stage, "all")
    publish_evaluation_set(project, "shapes")
    return project


def test_pairs_of_an_evaluation_subject_are_in_neither_set(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = built(make_project, tmp_path)
    assert read_images(project.store.current("evaluation_set", "shapes"))["subject"].tolist() == [
        "red",
        "",
    ]
    subjects = read_metadata(project.store.current("corpus_embeddings", "all"), ["subject"])[
        "subject"
    ]
    red = subjects.index[subjects == "red"]
    retrieved, control = retrieve_pairs(project, "shapes"), draw_control(project, "shapes")
    assert retrieved.counts["dropped"]["evaluation_subject"] == 16
    assert control.counts["dropped"]["evaluation_subject"] > 0  # of the rows that were drawn
    for artifact in (retrieved, control):
        pairs = pairs_of(artifact)
        assert len(pairs) == 32 and not pairs["row"].isin(red).any()
        assert leaked_images(project, artifact.stage, "shapes").subject == 0


def test_the_check_sees_a_subject_that_was_let_in(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = built(make_project, tmp_path)
    configure(project, tmp_path / "drawn" / "manifest.csv", "keep")
    retrieved = retrieve_pairs(project, "shapes")
    assert (
        retrieved.counts["pairs"] == 48 and retrieved.counts["dropped"]["evaluation_subject"] == 0
    )
    configure(project, tmp_path / "drawn" / "manifest.csv", "exclude")
    assert fresh_or_none(project, "retrieved_set", "shapes") is None
    assert leaked_images(project, "retrieved_set", "shapes").subject == 16


def test_excluding_subjects_that_no_pair_names_is_an_error(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = built(make_project, tmp_path, corpus=False)
    with pytest.raises(InputError, match="JSON"):
        retrieve_pairs(project, "shapes")


def test_without_subjects_nothing_is_excluded(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    project = built(make_project, tmp_path, images=False)
    retrieved, control = retrieve_pairs(project, "shapes"), draw_control(project, "shapes")
    assert retrieved.counts["pairs"] == control.counts["pairs"] == 48
    assert leaked_images(project, "retrieved_set", "shapes").subject == 0
    assert "subject" in retrieved.file("report.md").read_text()
