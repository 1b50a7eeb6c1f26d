"""A verdict without labels by clicks: two trained models, 60 judgements by keys in a real browser, a champion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support_drawings import COLOURS, SHAPES, draw
from support_services import program

from react_pipeline.assets.resources import REPOSITORY
from react_pipeline.evaluation.judgement_log import Session
from react_pipeline.project.project import Project
from react_pipeline.promotion.evidence import standing

pytestmark = [pytest.mark.slow, pytest.mark.operations]

JUDGEMENTS = 60


def test_sixty_judgements_by_keys_make_a_champion(make_project: Callable[..., Project], tmp_path: Path) -> None:
    program("chromium", "chromium")
    from docs.screenshots import open_page

    # Steps large enough for the models to disagree; what they learn does not matter here.
    defaults = {"steps": 12, "learning_rate": 0.01, "last_k_layers": 2, "batch_size": 8}
    project = make_project(customization={"defaults": {**defaults, "augmentation": "none"}})
    path = project.config.domains / "shapes.yaml"
    domain = yaml.safe_load(path.read_text())
    del domain["evaluation"]
    path.write_text(yaml.safe_dump(domain))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(400):
        shape, colour = SHAPES[number % 4], COLOURS[number // 4 % 4]
        draw(shape, colour, 1000 + number).save(pictures / f"{number}-{shape}.png")
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copy(REPOSITORY / "dagster_home" / "dagster.yaml", home)
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    command = [sys.executable, "-m", "react_pipeline"]
    options = ["--domain", "shapes", "--config", str(project.path)]
    methods = ["--method", "base", "--method", "full"]
    subprocess.run([*command, "materialize", *methods, *options], check=True, env=environment)
    assert standing(project, "shapes")[0].champion.method == "base"

    judge = [*command, "judge", "shapes", str(pictures), "--candidate", "full", "--port", "0"]
    judge += ["--judge", "a script", "--config", str(project.path)]
    process = subprocess.Popen(judge, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        address = next(filter(None, (re.search(r"http://127\.0\.0\.1:\d+/", line) for line in process.stdout)))[0]
        (log,) = (tmp_path / "judgements" / "shapes").glob("*.jsonl")
        header = Session.read(log).header
        assert len(header.pictures) > JUDGEMENTS and header.images == 400
        names = header.measure["classes"]
        asked: list[str] = []
        wrong: list[str] = []
        with open_page(900, 900) as page:
            page.on("request", lambda request: asked.append(request.url))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.goto(address)
            for number in range(JUDGEMENTS):
                page.wait_for_function("number => document.body.dataset.picture === String(number)", arg=number)
                shown = [page.inner_text(f"#{place}").rsplit(" ", 1)[0].strip() for place in ("first", "second")]
                # A judge who prefers whatever the candidate says, four times in five.
                wanted = names[header.pictures[number].candidate]
                page.keyboard.press("n" if number % 5 == 4 else str(shown.index(wanted) + 1))
                if number == 10:
                    page.wait_for_function("document.body.dataset.picture === '11'")
                    page.keyboard.press("z")
                    page.wait_for_function("document.body.dataset.picture === '10'")
                    page.keyboard.press(str(shown.index(wanted) + 1))
            page.wait_for_function("number => document.body.dataset.picture === String(number)", arg=JUDGEMENTS)
            page.wait_for_function("document.getElementById('picture').naturalWidth === 40")
            assert "full over base" in page.inner_text("#clear")
            page.screenshot(path=tmp_path / "judge.png")
        assert wrong == [] and [url for url in asked if not url.startswith(address)] == []
    finally:
        process.terminate()
        process.wait(60)
    session = Session.read(log)
    assert (session.counts["judged"], session.counts["won"], session.counts["neither"]) == (60, 48, 12)

    select = ["--select", "comparison or promotion"]
    subprocess.run([*command, "materialize", *select, *methods, *options], check=True, env=environment)
    verdict, _ = standing(project, "shapes")
    assert (verdict.decision, verdict.champion.method) == ("promoted", "full")
    assert verdict.test is not None and verdict.test.judged == JUDGEMENTS
