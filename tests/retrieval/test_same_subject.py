"""`same_subject: exclude`: pairs that show the very thing of an evaluation image are never trained
on.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest
from support.drawings import evaluation_image, pair, write_shard
from support.retrieval import pairs_of
from support.stages import run_corpus
from support.upkeep import edit_domain

from react_pipeline.embedding import read_metadata
from react_pipeline.labelled import publish_evaluation_set, read_images
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.retrieval import draw_control, leaked_images, retrieve_pairs
from react_pipeline.store import InputError

MakeProject = Callable[..., Project]
COLOURS = ("red", "blue", "green")


def configure(project: Project, same_subject: str = "exclude") -> None:
    retrieval = {"k_per_prompt": 48, "max_per_class": 48, "same_subject": same_subject}
    edit_domain(project, "shapes", retrieval=retrieval)


@pytest.fixture
def build(make_project: MakeProject, tmp_path: Path) -> MakeProject:
    """Circles and squares of three colours, eight of each; `subject` is the colour. Images of a
    red circle and of no subject are measured on.
    """

    def build(subjects_of: str = "pairs, images") -> Project:
        samples = {}
        for shape, colour, seed in product(("circle", "square"), COLOURS, range(8)):
            fields = {"subject": colour} if "pairs" in subjects_of else {}
            samples[f"{shape}-{colour}-{seed}"] = pair(shape, colour, seed, **fields)
        shard, manifest = write_shard(tmp_path / "0.tar", samples), tmp_path / "manifest.csv"
        for number, shape in enumerate(("circle", "square")):
            evaluation_image(shape, number).save(tmp_path / f"{number}.png")
        rows = "path,class,subject\n0.png,circle,red\n1.png,square,\n"
        manifest.write_text(rows if "images" in subjects_of else rows.replace("subject", "other"))
        project = make_project(corpus={"shards": [str(shard)]})
        evaluation = {"name": "drawn", "kind": "manifest", "path": str(manifest)}
        edit_domain(project, "shapes", evaluation=evaluation)
        configure(project)
        run_corpus(project)
        publish_evaluation_set(project, "shapes")
        return project

    return build


def test_pairs_of_an_evaluation_subject_are_in_neither_set(build: MakeProject) -> None:
    project = build()
    images = read_images(project.store.current("evaluation_set", "shapes"))
    assert images["subject"].tolist() == ["red", ""]
    rows = read_metadata(project.store.current("corpus_embeddings", "all"), ["subject"])
    red = rows.query("subject == 'red'").index
    retrieved, control = retrieve_pairs(project, "shapes"), draw_control(project, "shapes")
    assert retrieved.counts["dropped"]["evaluation_subject"] == 16
    assert control.counts["dropped"]["evaluation_subject"] > 0  # of the rows that were drawn
    for artifact in (retrieved, control):
        pairs = pairs_of(artifact)
        assert len(pairs) == 32 and not pairs["row"].isin(red).any()
        assert leaked_images(project, artifact.stage, "shapes").subject == 0


def test_the_check_sees_a_subject_that_was_let_in(build: MakeProject) -> None:
    project = build()
    configure(project, "keep")
    retrieved = retrieve_pairs(project, "shapes")
    assert (
        retrieved.counts["pairs"] == 48 and retrieved.counts["dropped"]["evaluation_subject"] == 0
    )
    configure(project)
    assert fresh_or_none(project, "retrieved_set", "shapes") is None
    assert leaked_images(project, "retrieved_set", "shapes").subject == 16


def test_excluding_subjects_that_no_pair_names_is_an_error(build: MakeProject) -> None:
    project = build("images")
    with pytest.raises(InputError, match="JSON"):
        retrieve_pairs(project, "shapes")


@pytest.mark.parametrize("labelled", [True, False])
def test_without_subjects_nothing_is_excluded(build: MakeProject, labelled: bool) -> None:
    project = build("pairs")
    if not labelled:
        edit_domain(project, "shapes", evaluation=None)
        publish_evaluation_set(project, "shapes")
    retrieved, control = retrieve_pairs(project, "shapes"), draw_control(project, "shapes")
    assert retrieved.counts["pairs"] == control.counts["pairs"] == 48
    assert leaked_images(project, "retrieved_set", "shapes").subject == 0
    assert "subject" in retrieved.file("report.md").read_text()
