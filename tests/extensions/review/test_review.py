"""Reviewing: decisions of a person change the next retrieved set, and only what they should."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from support.retrieval import configure

from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.launch import plan
from react_pipeline.embedding import vectors_of
from react_pipeline.extensions.review.commands import SET_AND_AFTER
from react_pipeline.extensions.review.log import ReviewLog, open_log
from react_pipeline.extensions.review.page import create_page
from react_pipeline.extensions.review.pairs import ReviewedSet, sureness
from react_pipeline.extensions.review.takedown import take_down, uses_of
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, current_decisions, review_file, takedown_file
from react_pipeline.retrieval import draw_control, retrieve_pairs
from react_pipeline.store import InputError, RetrievalError

SLUG = "shapes"
HOST = {"Host": "127.0.0.1:1236"}


@pytest.fixture
def pairs(retrieved_project: Project) -> ReviewedSet:
    return ReviewedSet(retrieved_project, SLUG)


@pytest.fixture
def log(retrieved_project: Project) -> Iterator[ReviewLog]:
    with open_log(retrieved_project, SLUG, "ann") as log:
        yield log


def table_of(artifact: Any) -> pd.DataFrame:
    return pd.read_parquet(artifact.file("pairs.parquet")).set_index("image_sha256")


def fingerprint(project: Project, stage: str = "retrieved_set") -> str:
    return str(resolve(project, stage, SLUG).fingerprint)


def test_decisions_shape_the_next_set(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog
) -> None:
    before = table_of(retrieved_project.store.current("retrieved_set", SLUG))
    rejected, moved, pinned = (pairs.pairs[number] for number in (0, 1, 2))
    others = [name for name in pairs.labels if name != moved.label]
    log.decide(rejected, "reject")
    log.decide(moved, "move", others[0])
    log.decide(pinned, "pin")
    artifact = retrieve_pairs(retrieved_project, SLUG)
    after = table_of(artifact)
    assert rejected.image in before.index
    assert rejected.image not in after.index
    assert after.loc[moved.image, "class"] == others[0]
    assert after.loc[pinned.image, "class"] == pinned.label
    assert artifact.counts["dropped"]["rejected"] >= 1
    rows = sum(artifact.counts["dropped"].values()) + artifact.counts["shared"]
    assert artifact.counts["candidates"] == artifact.counts["pairs"] + rows


def test_the_next_best_pair_takes_the_place_of_a_rejected_one(
    retrieved_project: Project, log: ReviewLog
) -> None:
    configure(retrieved_project, max_per_class=2)
    before = table_of(retrieve_pairs(retrieved_project, SLUG))
    pairs = ReviewedSet(retrieved_project, SLUG)
    log.decide(pairs.pairs[0], "reject")
    after = table_of(retrieve_pairs(retrieved_project, SLUG))
    assert set(before.index) - set(after.index) == {pairs.pairs[0].image}
    assert before["class"].value_counts().to_dict() == after["class"].value_counts().to_dict()


def test_a_pinned_pair_is_chosen_first(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog
) -> None:
    configure(retrieved_project, max_per_class=1)
    without = table_of(retrieve_pairs(retrieved_project, SLUG))
    weakest = next(pair for pair in pairs.pairs if pair.image not in without.index)
    log.decide(weakest, "pin")
    after = table_of(retrieve_pairs(retrieved_project, SLUG))
    assert weakest.image in after.index
    assert len(after) == len(without)


def test_a_pin_is_never_an_evaluation_image(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog, tmp_path: Path
) -> None:
    pinned = pairs.pairs[0]
    log.decide(pinned, "pin")
    assert "pins_missing" not in retrieve_pairs(retrieved_project, SLUG).counts
    # Now it becomes one.
    path = retrieved_project.config.domains / f"{SLUG}.yaml"
    fields = yaml.safe_load(path.read_text())
    folder = shutil.copytree(fields["evaluation"]["path"], tmp_path / "labelled")
    (sorted(folder.iterdir())[0] / "pinned.png").write_bytes(pairs.read(0))
    evaluation = {**fields["evaluation"], "path": str(folder)}
    path.write_text(yaml.safe_dump({**fields, "evaluation": evaluation}))
    publish_evaluation_set(retrieved_project, SLUG)
    artifact = retrieve_pairs(retrieved_project, SLUG)
    assert pinned.image not in table_of(artifact).index
    assert artifact.counts["pins_missing"] == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"max_pairs": 3},
        {"max_per_class": 1},
        {"min_similarity": {"t2t": 0.999}},
        {"duplicate_similarity": 0.2},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_pin_stays_whatever_else_is_dropped(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog, settings: dict[str, Any]
) -> None:
    configure(retrieved_project, **settings)
    without = set(table_of(retrieve_pairs(retrieved_project, SLUG)).index)
    weakest = [pair for pair in pairs.pairs if pair.image not in without][-1]
    log.decide(weakest, "pin")
    artifact = retrieve_pairs(retrieved_project, SLUG)
    assert weakest.image in table_of(artifact).index
    assert "pins_missing" not in artifact.counts


def test_only_decisions_that_change_pairs_change_the_set(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog
) -> None:
    before = fingerprint(retrieved_project)
    log.decide(pairs.pairs[0], "keep")
    assert fingerprint(retrieved_project) == before
    log.decide(pairs.pairs[0], "reject")
    assert fingerprint(retrieved_project) != before
    log.take_back()
    assert fingerprint(retrieved_project) == before


def test_a_review_is_resumed_and_held_by_one(
    retrieved_project: Project, pairs: ReviewedSet
) -> None:
    with open_log(retrieved_project, SLUG, "ann") as log:
        log.decide(pairs.pairs[0], "reject")
        with (
            pytest.raises(InputError, match="open"),
            open_log(retrieved_project, SLUG, "bob"),
        ):
            pass
    with review_file(retrieved_project, SLUG).open("a") as file:
        file.write('{"image": "cut by a k')
    with open_log(retrieved_project, SLUG, "bob") as log:
        log.decide(pairs.pairs[1], "pin")
    decisions = current_decisions(retrieved_project, SLUG)
    assert [decision.by for decision in decisions.values()] == ["ann", "bob"]


def test_the_next_command_builds_all_that_decisions_change() -> None:
    methods = ["base", "gda", "gda-control"]
    stages = {stage for stage, _ in plan(build_defs(), SET_AND_AFTER, [SLUG], methods)}
    assert {"retrieved_set", "control_set", "customized_checkpoint", "comparison"} <= stages


def test_a_review_without_a_decision_leaves_no_file(retrieved_project: Project) -> None:
    with open_log(retrieved_project, SLUG, "ann"):
        assert review_file(retrieved_project, SLUG).exists()
    assert not review_file(retrieved_project, SLUG).exists()


@pytest.mark.parametrize("line", ["{}", "[1]", '{"image": "x"}'])
def test_a_wrong_line_is_named(retrieved_project: Project, line: str) -> None:
    review_file(retrieved_project, SLUG).write_text(line + "\n")
    with pytest.raises(InputError, match=rf"{SLUG}\.review\.jsonl:1"):
        retrieve_pairs(retrieved_project, SLUG)


def test_decisions_for_a_class_that_is_gone_are_named(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog
) -> None:
    log.decide(pairs.pairs[0], "move", "unicorn")
    with pytest.raises(InputError, match="unicorn"):
        retrieve_pairs(retrieved_project, SLUG)


def test_a_review_of_another_corpus_is_refused(retrieved_project: Project) -> None:
    decision = {
        "image": "0" * 64,
        "class": "x",
        "verdict": "reject",
        "by": "ann",
        "time": "2026-01-01",
    }
    review_file(retrieved_project, SLUG).write_text(json.dumps(decision) + "\n")
    with pytest.raises(InputError, match="another"):
        retrieve_pairs(retrieved_project, SLUG)


def test_the_page_records_what_is_clicked(pairs: ReviewedSet, log: ReviewLog) -> None:
    client = create_page(pairs, log).test_client()
    state = client.get("/state", headers=HOST).json
    assert state is not None
    first = state["pair"]
    assert client.get(f"/picture/{first}", headers=HOST).mimetype == "image/jpeg"
    assert state["caption"] == pairs.pairs[first].caption
    body = {"image": state["image"], "verdict": "reject"}
    state = client.post("/decide", headers=HOST, json=body).json
    assert state["verdicts"]["reject"] == 1
    assert state["pair"] != first
    assert state["label"] == pairs.pairs[first].label
    state = client.post("/decide", headers=HOST, json={"verdict": None}).json
    assert state["pair"] == first
    assert not log.decisions
    last = pairs.labels[-1]
    assert client.get(f"/state?class={last}", headers=HOST).json["label"] == last


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"verdict": "burn", "image": "first"},
        {"verdict": "keep", "image": "0" * 64},
        {"verdict": "move", "image": "first", "to": "unicorn"},
        {"verdict": None},
    ],
)
def test_the_page_refuses_what_is_no_decision(
    pairs: ReviewedSet, log: ReviewLog, body: Any
) -> None:
    client = create_page(pairs, log).test_client()
    if isinstance(body, dict) and body.get("image") == "first":
        body = {**body, "image": pairs.pairs[0].image}
    assert client.post("/decide", headers=HOST, json=body).status_code == 400
    assert not log.decisions


def test_the_page_answers_its_own_browser_alone(pairs: ReviewedSet, log: ReviewLog) -> None:
    client = create_page(pairs, log).test_client()
    assert client.get("/state", headers={"Host": "evil.example"}).status_code == 403
    headers = {**HOST, "Origin": "https://evil.example"}
    body = {"image": pairs.pairs[0].image, "verdict": "reject"}
    assert client.post("/decide", headers=headers, json=body).status_code == 403


def test_a_pair_that_belongs_to_another_class_comes_first(
    retrieved_project: Project, pairs: ReviewedSet
) -> None:
    embeddings = retrieved_project.store.current("corpus_embeddings", "all")
    table = pd.read_parquet(
        retrieved_project.store.current("retrieved_set", SLUG).file("pairs.parquet")
    )
    table["class_id"] = pd.factorize(table["class"])[0]
    planted = table.copy()
    largest = planted["class_id"].mode()[0]
    stranger = planted.index[planted["class_id"] != largest][0]
    planted.loc[stranger, "class_id"] = largest
    images, captions = (vectors_of(embeddings, side, planted["row"]) for side in ("image", "text"))
    sure = sureness(images, captions, planted["class_id"].to_numpy())
    of_class = np.flatnonzero((planted["class_id"] == largest).to_numpy())
    place = np.argsort(sure[of_class]).tolist().index(of_class.tolist().index(stranger))
    assert place < len(of_class) / 2


def test_a_takedown_reaches_every_set_and_names_its_uses(
    retrieved_project: Project,
) -> None:
    draw_control(retrieved_project, SLUG)
    before = {stage: fingerprint(retrieved_project, stage) for stage in ("retrieved_set",)}
    image = table_of(retrieved_project.store.current("retrieved_set", SLUG)).index[0]
    take_down(retrieved_project, image)
    take_down(retrieved_project, image)
    assert takedown_file(retrieved_project).read_text() == f"{image}\n"
    uses = uses_of(retrieved_project, image)
    assert "retrieved_set" in set(uses["stage"])
    assert fingerprint(retrieved_project) != before["retrieved_set"]
    assert image not in table_of(retrieve_pairs(retrieved_project, SLUG)).index
    assert image not in table_of(draw_control(retrieved_project, SLUG)).index


def test_a_takedown_by_url_reaches_tars_with_urls(
    retrieved_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    from react_pipeline.retrieval import review

    retrieved = retrieved_project.store.current("retrieved_set", SLUG)
    pairs = pd.read_parquet(retrieved.file("pairs.parquet"))
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


def test_a_line_that_was_added_by_hand_is_kept(
    retrieved_project: Project, pairs: ReviewedSet
) -> None:
    with open_log(retrieved_project, SLUG, "ann") as log:
        log.decide(pairs.pairs[0], "reject")
    path = review_file(retrieved_project, SLUG)
    line = path.read_text().replace(pairs.pairs[0].image, pairs.pairs[1].image).strip()
    path.write_text(path.read_text() + line)
    with open_log(retrieved_project, SLUG, "bob") as log:
        assert set(log.decisions) == {pairs.pairs[0].image, pairs.pairs[1].image}


def test_a_decision_of_an_earlier_set_is_taken_back(
    retrieved_project: Project, pairs: ReviewedSet, log: ReviewLog
) -> None:
    log.decide(pairs.pairs[0], "reject")
    pairs.pairs.pop(0)
    client = create_page(pairs, log).test_client()
    assert client.post("/decide", headers=HOST, json={"verdict": None}).status_code == 200
    assert not log.decisions


def test_a_takedown_needs_a_digest_or_a_url(retrieved_project: Project, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="SHA-256"):
        take_down(retrieved_project, "cat.jpg")
    assert not takedown_file(retrieved_project).exists()
