"""Judging: which pictures go into a log, and the page that asks about them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image
from support.customized import customized
from support.drawings import SHAPES, draw
from support.judging import SLUG, header_of, without_labels
from support.processes import killed

from react_pipeline.clip.base import publish_base
from react_pipeline.extensions.judging import page, prepare
from react_pipeline.extensions.judging.judgements import JUDGEMENTS, present_model
from react_pipeline.extensions.judging.log import JudgementLog, Session, Side, open_log
from react_pipeline.extensions.judging.page import create_page
from react_pipeline.extensions.judging.prepare import prepare_log
from react_pipeline.extensions.predict import encoding
from react_pipeline.extensions.predict.pictures import find_pictures
from react_pipeline.project.project import Project
from react_pipeline.store.errors import InputError, MissingArtifact

GATED = "gated-image"
HOSTILE = "<img src=x onerror=alert(1)> & 'square'"
HOST = {"Host": "127.0.0.1:1235"}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number in range(24):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        draw(SHAPES[number % 4], "red", number).save(
            folder / str(number % 2) / f"{number:02d} <b>&'.png"
        )
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture
def project(make_project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    project = make_project()
    path = project.config.domains / f"{SLUG}.yaml"
    domain = yaml.safe_load(path.read_text())
    domain["classes"][1] = HOSTILE
    path.write_text(yaml.safe_dump(domain))
    without_labels(project, [GATED])

    def classify(
        _project: Project, _slug: str, side: Any, pictures: Any, _folder: Path
    ) -> Iterator[tuple[str, int]]:
        good = [picture.name for picture in pictures if not picture.name.endswith(".jpg")]
        yield from (
            (name, int(side.method == "base" and number % 3 == 0))
            for number, name in enumerate(good)
        )

    monkeypatch.setattr(prepare, "_classify", classify)
    return project


@pytest.fixture
def log(project: Project, pictures: Path) -> Iterator[JudgementLog]:
    with open_log(
        prepare_log(project, SLUG, str(pictures), GATED, "base", print).log, "a tester"
    ) as log:
        yield log


@pytest.fixture
def tab(log: JudgementLog) -> Any:
    named = {picture.name: picture for picture in find_pictures(log.session.header.source)[0]}
    return create_page(log, named, 1_000_000).test_client()


def answer(tab: Any, picture: Any, choice: Any, **headers: str) -> Any:
    return tab.post(
        "/answer", json={"picture": picture, "choice": choice}, headers={**HOST, **headers}
    )


def test_a_log_has_all_readable_disagreements_in_random_order(
    log: JudgementLog,
) -> None:
    header = log.session.header
    assert (header.images, header.unreadable, len(header.pictures)) == (24, 1, 8)
    assert {(one.candidate, one.against) for one in header.pictures} == {(0, 1)}
    assert [one.path for one in header.pictures] != sorted(one.path for one in header.pictures)


@pytest.mark.parametrize(
    ("clicks", "words"), [(None, "forecast"), (2, "about 2 more"), (8, "all 9 are judged")]
)
def test_what_is_left_is_a_forecast(clicks: int | None, words: str) -> None:
    header = SimpleNamespace(pictures=[None] * 9)
    session: Any = SimpleNamespace(clicks_left=clicks, header=header, entries=[None])
    assert words in page._left(session)


def test_the_same_pictures_resume_and_others_begin_anew(project: Project, pictures: Path) -> None:
    first = prepare_log(project, SLUG, str(pictures), GATED, "base", print).log
    bytes_before = first.read_bytes()
    assert prepare_log(project, SLUG, str(pictures), None, "champion", print).log == first
    assert first.read_bytes() == bytes_before
    draw("circle", "blue", 99).save(pictures / "new.png")
    assert prepare_log(project, SLUG, str(pictures), GATED, "base", print).log != first


@pytest.mark.parametrize(
    ("candidate", "against", "error"),
    [
        (GATED, GATED, InputError),
        (GATED, "nothing", InputError),
        ("locked-text", "base", MissingArtifact),
    ],
)
def test_models_that_cannot_be_compared_are_refused(
    project: Project, pictures: Path, candidate: str, against: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        prepare_log(project, SLUG, str(pictures), candidate, against, print)


@pytest.mark.parametrize("content", [None, b"no picture"])
def test_a_source_without_a_usable_picture_is_refused(
    project: Project, tmp_path: Path, content: bytes | None
) -> None:
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / "empty" / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match="empty"):
        prepare_log(project, SLUG, str(tmp_path / "empty"), GATED, "base", print)


def judge_until_killed(config: Path, source: str) -> None:
    """Die when the first model has classified the pictures, before what the second one says is on
    the disk.
    """
    write, written = encoding._write, []

    def dying(*arguments: Any) -> None:
        if written:
            os.kill(os.getpid(), signal.SIGKILL)
        written.append(write(*arguments))

    encoding._write = dying
    prepare_log(Project.load(config), SLUG, source, GATED, "base", print)


def test_killed_between_two_models_it_resumes_with_the_second(
    retrieved_project: Project, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    customized(retrieved_project, GATED)
    killed(judge_until_killed, retrieved_project.path, str(pictures))
    assert not list((retrieved_project.path.parent / JUDGEMENTS).rglob("*.jsonl"))
    write, written = encoding._write, []
    monkeypatch.setattr(encoding, "_write", lambda *arguments: written.append(write(*arguments)))
    prepared = prepare_log(retrieved_project, SLUG, str(pictures), GATED, "base", print)
    header = Session.read(prepared.log).header
    assert len(written) == 1 and (header.images, header.unreadable) == (24, 1)


def test_models_classify_as_they_are_measured(
    make_project: Callable[..., Project], pictures: Path, tmp_path: Path
) -> None:
    import torch

    from react_pipeline.clip.classifier import load_classifier

    project = make_project()
    publish_base(project)
    side = present_model(project, SLUG, "base")
    found, _ = find_pictures(str(pictures))
    classified = dict(prepare._classify(project, SLUG, side, found, tmp_path / "parts"))
    clip, head = load_classifier(
        project.store.current("base_checkpoint", "all"), None, project.domain(SLUG), "cpu"
    )
    expected = {}
    for picture in found[:-1]:
        with torch.inference_mode():
            pixels = clip.preprocess(Image.open(picture.path).convert("RGB"))[None]
        expected[picture.name] = int((clip.encode_images(pixels) @ head.vectors).argmax())
    assert classified == expected


def test_every_answer_is_of_the_class_on_its_button(tab: Any, log: JudgementLog) -> None:
    for number, wanted in enumerate(["circle", HOSTILE] * 4):
        state = tab.get("/state", headers=HOST).get_json()
        assert (state["picture"], state["total"]) == (number, 8)
        place = state["choices"].index(wanted)
        assert answer(tab, number, place).status_code == 200
    assert [entry.answer for entry in log.session.entries] == [0, 1] * 4
    state = tab.get("/state", headers=HOST).get_json()
    assert state["clear"] and state["choices"] == [] and state["left"] == ""
    assert Session.read(log.session.path).entries == log.session.entries


def test_names_change_places_by_the_log_and_number_alone(project: Project) -> None:
    sides = Side(method=GATED, checkpoint="one"), Side(method="base", checkpoint="other")
    header = header_of(project, *sides, disagreements=200, images=300).model_copy(
        update={"created": "now"}
    )
    stub: Any = SimpleNamespace(session=Session(Path("log.jsonl"), b"", header, ()))
    firsts = [page._choices(stub, number)[0] for number in range(200)]
    assert 80 < sum(firsts) < 120


def test_nothing_gives_a_model_away_before_the_answer_is_clear(tab: Any, log: JudgementLog) -> None:
    while not (state := tab.get("/state", headers=HOST).get_json())["clear"]:
        text = json.dumps(state) + tab.get("/", headers=HOST).text
        assert (
            not any(word in text for word in (GATED, "base", "candidate", "against"))
            and state["result"] == ""
        )
        answer(tab, state["picture"], 0)
    assert GATED in state["result"] and len(log.session.entries) > 4


def test_two_tabs_lose_and_double_nothing(tab: Any, log: JudgementLog) -> None:
    other = tab.application.test_client()
    assert answer(tab, 0, "neither").status_code == 200
    late = answer(other, 0, "unsure")
    assert late.status_code == 409 and late.get_json()["picture"] == 1
    assert answer(other, 1, "unsure").status_code == 200
    assert answer(tab, 0, None).status_code == 409  # the other tab's answer is last by now
    assert answer(tab, 1, None).get_json()["picture"] == 1
    assert answer(other, 1, None).status_code == 409
    assert [entry.answer for entry in log.session.entries] == ["neither"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
    ],
)
def test_a_page_of_another_site_judges_nothing(
    tab: Any, log: JudgementLog, headers: dict[str, str]
) -> None:
    assert answer(tab, 0, "neither", **headers).status_code == 403
    assert not log.session.entries
    assert answer(tab, 0, "neither", Origin="http://127.0.0.1:1235").status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ('{"picture": 0, "choice": 7}', "application/json", 400),
        ('{"picture": "0", "choice": 0}', "application/json", 400),
        ('{"picture": 99, "choice": 0}', "application/json", 409),
        ('{"picture": -1, "choice": 0}', "application/json", 409),
        ("[]", "application/json", 400),
        ("{", "application/json", 400),
        ('{"picture": 0, "choice": 0}', "text/plain", 415),
        ('"' + "x" * 5000 + '"', "application/json", 413),
    ],
)
def test_what_is_no_answer_is_refused(
    tab: Any, log: JudgementLog, body: str, kind: str, status: int
) -> None:
    assert tab.post("/answer", data=body, content_type=kind, headers=HOST).status_code == status
    assert not log.session.entries


def test_page_pictures_and_parts_come_from_here_alone(tab: Any, log: JudgementLog) -> None:
    page = tab.get("/", headers=HOST)
    assert "default-src 'none'; script-src 'self'" in page.headers["Content-Security-Policy"]
    assert (
        page.text.count("<script") == 1
        and "innerHTML" not in tab.get("/judge.js", headers=HOST).text
    )
    assert "var(--ink)" in page.text and "Content-Security-Policy" not in page.text
    assert tab.get("/judge.html", headers=HOST).status_code == 404
    assert tab.get("/picture/0", headers=HOST).data.startswith(b"\xff\xd8")
    Path(log.session.header.pictures[1].path).unlink()
    assert [tab.get(f"/picture/{number}", headers=HOST).status_code for number in (1, 8)] == [
        404,
        404,
    ]
