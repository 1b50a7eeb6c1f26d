"""Judging: which pictures go into a log, and the page that asks about them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.commands import call_in_words
from support.customized import customized
from support.drawings import SHAPES, draw
from support.judging import SLUG, header_of, say, without_labels
from support.processes import killed
from support.promotion import checkpoint
from support.services import answer, command, serving
from support.upkeep import edit_domain

from react_pipeline.clip.base import publish_base
from react_pipeline.embedding import Encoder
from react_pipeline.extensions.pages import judge as judging
from react_pipeline.extensions.pages.judge import JudgeBoard, open_judge, prepare_log
from react_pipeline.extensions.pages.judgements import JUDGEMENTS
from react_pipeline.extensions.pages.session import Session, Side
from react_pipeline.extensions.predict.pictures import find_pictures
from react_pipeline.project.project import Project
from react_pipeline.store import Scratch
from react_pipeline.store.errors import InputError, MissingArtifact

GATED = "gated-image"
HOSTILE = "<img src=x onerror=alert(1)> & 'square'"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(24):
        path = folder / str(number % 2) / f"{number:02d} <b>&'.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(SHAPES[number % 4], "red", number).save(path)
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def project(make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    project = make_project()
    edit_domain(project, SLUG, classes=[SHAPES[0], HOSTILE, *SHAPES[2:]])
    without_labels(project, [GATED])

    def classify(
        _project: Project, _slug: str, model: Any, pictures: Any, _work: Path
    ) -> Iterator[tuple[str, int]]:
        good = [picture.name for picture in pictures if not picture.name.endswith(".jpg")]
        yield from (
            (name, int(model.stage == "base_checkpoint" and number % 3 == 0))
            for number, name in enumerate(good)
        )

    monkeypatch.setattr(judging, "_classify", classify)
    return project


def prepared(
    project: Project, pictures: Path, candidate: str | None = GATED, against: str = "base"
) -> Any:
    return prepare_log(project, SLUG, str(pictures), candidate, against, print)


@pytest.fixture
def board(project: Project, pictures: Path) -> Iterator[JudgeBoard]:
    path, named = prepared(project, pictures)
    with open_judge(path, "a tester", 1_000_000) as board:
        board.pictures = named
        yield board


def test_a_log_has_all_readable_disagreements_in_random_order(board: JudgeBoard) -> None:
    header = board.session.header
    assert (header.images, header.unreadable, len(header.pictures)) == (24, 1, 8)
    assert {(one.candidate, one.against) for one in header.pictures} == {(0, 1)}
    assert [one.path for one in header.pictures] != sorted(one.path for one in header.pictures)


def test_the_same_pictures_resume_and_others_begin_anew(project: Project, pictures: Path) -> None:
    first, _ = prepared(project, pictures)
    bytes_before = first.read_bytes()
    assert prepared(project, pictures, None, "champion")[0] == first
    assert first.read_bytes() == bytes_before
    draw("circle", "blue", 99).save(pictures / "new.png")
    assert prepared(project, pictures)[0] != first


def test_models_that_cannot_be_compared_are_refused(project: Project, pictures: Path) -> None:
    for candidate, against, error, words in (
        (GATED, GATED, InputError, "with itself"),
        (GATED, "nothing", InputError, "nothing"),
        ("locked-text", "base", MissingArtifact, "locked-text"),
    ):
        with pytest.raises(error, match=words):
            prepared(project, pictures, candidate, against)
    for folder in ("0", "1"):
        shutil.rmtree(pictures / folder)
    with pytest.raises(InputError, match="none of its 1 pictures"):
        prepared(project, pictures)


def judge_until_killed(config: Path, source: str) -> None:
    """Die when the first model has classified the pictures, before what the second one says is on
    the disk.
    """
    keep, kept = Scratch.keep, []

    def dying(*arguments: Any) -> Path:
        if kept:
            os.kill(os.getpid(), signal.SIGKILL)
        kept.append(keep(*arguments))
        return kept[0]

    Scratch.keep = dying  # type: ignore[method-assign]
    prepared(Project.load(config), Path(source))


def test_killed_between_two_models_it_resumes_with_the_second(
    retrieved_project: Project, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customized(retrieved_project, GATED)
    killed(judge_until_killed, retrieved_project.path, str(pictures))
    assert not list((retrieved_project.path.parent / JUDGEMENTS).rglob("*.jsonl"))
    images, batches = Encoder.images, []
    monkeypatch.setattr(Encoder, "images", lambda *given: batches.append(given) or images(*given))
    path, _ = prepared(retrieved_project, pictures)
    header = Session.read(path).header
    assert len(batches) == 1 and (header.images, header.unreadable) == (24, 1)


def test_models_classify_as_they_are_measured(
    make_project: Callable[..., Project], pictures: Path
) -> None:
    import torch

    from react_pipeline.clip.classifier import load_classifier

    project = make_project()
    publish_base(project)
    base = project.store.current("base_checkpoint", "all")
    found, _ = find_pictures(str(pictures))
    classified = dict(judging._classify(project, SLUG, base, found, pictures / "work"))
    clip, head = load_classifier(base, None, project.domain(SLUG), "cpu")
    expected = {}
    for picture in found[:-1]:
        with torch.inference_mode():
            pixels = clip.preprocess(Image.open(picture.path).convert("RGB"))[None]
        expected[picture.name] = int((clip.encode_images(pixels) @ head.vectors).argmax())
    assert classified == expected


def test_every_answer_is_of_the_class_on_its_button(board: JudgeBoard) -> None:
    for number, wanted in enumerate(["circle", HOSTILE] * 4):
        view = board.view({})
        assert view.status == f"{number} of 8 judged"
        assert view.items[0].picture == f"picture/{number}"
        assert board.picture(number).startswith(b"\x89PNG")
        (chosen,) = (button for button in view.buttons if button.text == wanted)
        assert board.answer(dict(chosen.answer or {}))
    assert [entry.answer for entry in board.session.entries] == [0, 1] * 4
    view = board.view({})
    assert "All are judged" in view.notice and "has p = " in view.notice
    assert not view.items and [one.text for one in view.buttons] == ["Take back"]
    assert Session.read(board.session.path).entries == board.session.entries


def test_models_that_agree_leave_nothing_to_judge(
    project: Project, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint(project, SLUG, f"{GATED}-control")
    options = ["--against", f"{GATED}-control", "--config", str(project.path)]
    code, shown, _ = call_in_words(capsys, "judge", SLUG, str(pictures), *options)
    assert code == 0 and "nothing to judge" in shown


def test_names_change_places_by_the_log_and_number_alone(project: Project) -> None:
    sides = Side(method=GATED, checkpoint="one"), Side(method="base", checkpoint="other")
    header = header_of(project, *sides, disagreements=200, images=300).model_copy(
        update={"created": "now"}
    )
    session = Session(Path("log.jsonl"), b"", header, ())
    board = JudgeBoard(session, "a tester", str.encode, 1)
    firsts = [board._choices(number)[0] for number in range(200)]
    assert 80 < sum(firsts) < 120


def test_nothing_gives_a_model_away_before_the_answer_is_clear(board: JudgeBoard) -> None:
    while not (view := board.view({})).notice:
        text = f"{view}{board.title}{board.hint}"
        assert not any(word in text for word in (GATED, "base", "candidate", "against", "points"))
        say(board, len(board.session.entries), 0)
    assert GATED in view.notice and len(board.session.entries) > 4


def test_two_tabs_lose_and_double_nothing(board: JudgeBoard) -> None:
    tries: list[tuple[int, Any]] = [(0, "neither"), (0, "unsure"), (1, "unsure")]
    tries += [(0, None), (1, None), (1, None), (99, 0), (-1, 0), (-1, None)]
    answers = [say(board, picture, choice) for picture, choice in tries]
    assert answers == [True, False, True, False, True, False, False, False, False]
    assert [entry.answer for entry in board.session.entries] == ["neither"]


@pytest.mark.parametrize(
    "answer",
    [{"picture": 0, "choice": 7}, {"picture": "0", "choice": 0}, {"picture": 0}, [], "x", 1],
)
def test_what_is_no_answer_is_refused(board: JudgeBoard, answer: Any) -> None:
    with pytest.raises((InputError, ValueError)):
        board.answer(answer)
    assert not board.session.entries


def ask(address: str, **body: Any) -> Any:
    headers, data = {"Content-Type": "application/json"}, json.dumps(body).encode()
    return json.loads(answer(f"{address}view", headers=headers, body=data)[1])


@pytest.mark.slow
def test_acknowledged_answers_outlive_a_kill(project: Project, pictures: Path) -> None:
    log, _ = prepared(project, pictures)
    judge = command(project, "judge", SLUG, str(pictures), "--port", "0", "--by", "a tester")
    with serving(judge) as (address, process):
        for number in range(5):
            ask(address, answer={"picture": number, "choice": "neither"})
        process.kill()
    with log.open("ab") as file:
        file.write(b'{"picture": 5, "an')
    with serving(judge) as (address, process):
        assert ask(address)["status"] == "5 of 8 judged"
        ask(address, answer={"picture": 5, "choice": "unsure"})
        second = subprocess.run(judge, capture_output=True, text=True, check=False)
        assert second.returncode == 2 and "another" in second.stderr
        process.terminate()
        printed, _ = process.communicate(timeout=900)
        assert "(6 judged, of 24 pictures)" in printed
        assert "next: react-pipeline materialize --select" in printed
        assert process.returncode == 0
    session = Session.read(log)
    assert [entry.answer for entry in session.entries] == ["neither"] * 5 + ["unsure"]
    assert {entry.judge for entry in session.entries} == {"a tester"}
    assert project.store.current("judgements", SLUG).counts["sessions"] == 1
