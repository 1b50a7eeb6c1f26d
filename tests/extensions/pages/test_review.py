"""Reviewing: decisions of a person change the next retrieved set, and only what they should."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.retrieval import pairs_of

from react_pipeline.extensions.pages.review import (
    ReviewBoard,
    find_uses,
    open_review,
    take_down,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, current_decisions, review_file, takedown_file
from react_pipeline.retrieval import draw_control, retrieve_pairs
from react_pipeline.store import InputError, RetrievalError

SLUG = "shapes"


@pytest.fixture
def board(retrieved_project: Project) -> Iterator[ReviewBoard]:
    with open_review(retrieved_project, SLUG, "ann") as board:
        yield board


def decide(board: ReviewBoard, image: str, verdict: str | None) -> None:
    assert board.answer({"image": image, "verdict": verdict})


def images_of(board: ReviewBoard) -> list[str]:
    """SHA-256 of the pairs in the order of the page."""
    return list(board.pairs["image_sha256"])


def table_of(artifact: Any) -> pd.DataFrame:
    return pairs_of(artifact).set_index("image_sha256")


def fingerprint(project: Project) -> str:
    return resolve(project, "retrieved_set", SLUG).fingerprint


def test_decisions_shape_the_next_set(retrieved_project: Project, board: ReviewBoard) -> None:
    before = table_of(retrieved_project.store.current("retrieved_set", SLUG))
    rejected, undecided = images_of(board)[0], fingerprint(retrieved_project)
    decide(board, rejected, "reject")
    decide(board, rejected, None)
    assert fingerprint(retrieved_project) == undecided
    decide(board, rejected, "reject")
    artifact = retrieve_pairs(retrieved_project, SLUG)
    assert artifact.fingerprint != undecided
    after = table_of(artifact)
    assert rejected in before.index and rejected not in after.index
    assert artifact.counts["dropped"]["rejected"] >= 1
    rows = sum(artifact.counts["dropped"].values()) + artifact.counts["shared"]
    assert artifact.counts["candidates"] == artifact.counts["pairs"] + rows


def test_a_review_is_resumed_and_held_by_one(retrieved_project: Project) -> None:
    with open_review(retrieved_project, SLUG, "ann") as board:
        images = images_of(board)
        decide(board, images[0], "reject")
        with pytest.raises(InputError, match="open"):
            open_review(retrieved_project, SLUG, "bob").__enter__()
    path = review_file(retrieved_project, SLUG)
    # A whole line that was added by hand counts, and what a kill cut short does not.
    path.write_text(path.read_text() + path.read_text().strip().replace(images[0], images[1]))
    with open_review(retrieved_project, SLUG, "bob") as board:
        assert set(board.decisions) == set(images[:2])
    path.write_text(path.read_text() + '{"image": "cut by a k')
    with open_review(retrieved_project, SLUG, "bob") as board:
        decide(board, images[2], "reject")
    decisions = current_decisions(retrieved_project, SLUG)
    assert [decision.by for decision in decisions.values()] == ["ann", "ann", "bob"]


def test_a_wrong_line_is_named(retrieved_project: Project) -> None:
    review_file(retrieved_project, SLUG).write_text('{"image": "x"}\n')
    with pytest.raises(InputError, match=rf"{SLUG}\.review\.jsonl:1"):
        retrieve_pairs(retrieved_project, SLUG)


def test_the_page_shows_a_class_and_records_what_is_clicked(
    retrieved_project: Project, board: ReviewBoard
) -> None:
    view = board.view({})
    first = board.pairs["class"].iloc[0]
    best_first = pairs_of(retrieved_project.store.current("retrieved_set", SLUG))
    mine = best_first[best_first["class"] == first][::-1]
    assert [item.caption for item in view.items] == list(mine["caption"])
    shown = [dict(item.answer or {})["image"] for item in view.items]
    assert shown == list(mine["image_sha256"])
    number = int(view.items[0].picture.removeprefix("picture/"))
    digest = hashlib.sha256(board.picture(number)).hexdigest()
    assert digest == shown[0]
    board.answer(dict(view.items[0].answer or {}))
    assert board.decisions[digest].verdict == "reject"
    decided = board.view({"class": first}).items
    assert decided[0].note == "reject"
    board.answer(dict(decided[0].answer or {}))  # a second click takes it back
    assert not board.decisions and not board.view({}).items[0].note
    following = board.view(dict(view.buttons[0].ask or {}))
    assert following.menus[0].value != first


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"verdict": "burn", "image": "first"},
        {"verdict": "reject", "image": "0" * 64},
        {"verdict": None, "image": ""},
    ],
)
def test_the_page_refuses_what_is_no_decision(board: ReviewBoard, answer: Any) -> None:
    if isinstance(answer, dict) and answer["image"] == "first":
        answer = {**answer, "image": images_of(board)[0]}
    with pytest.raises((InputError, ValueError)):
        board.answer(answer)
    assert not board.decisions


def test_a_takedown_reaches_every_set_and_names_its_uses(
    retrieved_project: Project,
) -> None:
    draw_control(retrieved_project, SLUG)
    before = fingerprint(retrieved_project)
    image = table_of(retrieved_project.store.current("retrieved_set", SLUG)).index[0]
    with pytest.raises(InputError, match="SHA-256"):
        take_down(retrieved_project, "cat.jpg")
    take_down(retrieved_project, image)
    take_down(retrieved_project, image)
    assert takedown_file(retrieved_project).read_text() == f"{image}\n"
    uses = find_uses(retrieved_project, image)
    assert "retrieved_set" in set(uses["stage"])
    assert fingerprint(retrieved_project) != before
    assert image not in table_of(retrieve_pairs(retrieved_project, SLUG)).index
    assert image not in table_of(draw_control(retrieved_project, SLUG)).index


def test_a_takedown_by_url_reaches_tars_with_urls(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from react_pipeline.retrieval import review

    retrieved = retrieved_project.store.current("retrieved_set", SLUG)
    pairs = pairs_of(retrieved)
    row, image = int(pairs["row"][0]), pairs["image_sha256"][0]
    read = review.row_metadata

    def with_url(embeddings: Any, rows: Any, columns: list[str]) -> pd.DataFrame:
        table = read(embeddings, rows, columns)
        return table.assign(url=np.where(table.index == row, "https://a.b/c.jpg", ""))

    monkeypatch.setattr(review, "row_metadata", with_url)
    take_down(retrieved_project, "https://a.b/c.jpg")
    assert image not in table_of(retrieve_pairs(retrieved_project, SLUG)).index
    assert image not in table_of(draw_control(retrieved_project, SLUG)).index


@pytest.mark.parametrize("make", [retrieve_pairs, draw_control])
def test_no_set_is_published_with_what_was_taken_down_meanwhile(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    stage = "retrieved_set" if make is retrieve_pairs else "control_set"
    image = table_of(retrieved_project.store.current(stage, SLUG)).index[0]
    # Any other takedown makes the set due, and this one comes while it is collected.
    take_down(retrieved_project, "https://a.b/other.jpg")
    if make is draw_control:
        retrieve_pairs(retrieved_project, SLUG)
    module = import_module(make.__module__)
    write = module.write_pairs

    def late(*args: Any, **options: Any) -> Any:
        pairs = write(*args, **options)
        take_down(retrieved_project, image)
        return pairs

    monkeypatch.setattr(module, "write_pairs", late)
    with pytest.raises(RetrievalError, match=r"takedown\.txt"):
        make(retrieved_project, SLUG)
    monkeypatch.undo()
    if make is draw_control:
        retrieve_pairs(retrieved_project, SLUG)
    assert image not in table_of(make(retrieved_project, SLUG)).index
