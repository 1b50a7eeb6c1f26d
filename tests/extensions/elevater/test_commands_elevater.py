from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from support.commands import call
from support.elevater import write_elevater

from react_pipeline.clip import publish_base
from react_pipeline.extensions.elevater import publish_features, publish_results
from react_pipeline.project import Project


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("REACT_PIPELINE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    return partial(call, capsys, "elevater")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_elevater(tmp_path_factory.mktemp("data"), only=["mnist", "dtd"])


def test_a_check_reports_all_and_fails_only_for_what_is_wrong(
    run, data: Path, tmp_path: Path
) -> None:
    before = sorted(data.rglob("*"))
    code, out, _ = run("check", str(data))
    assert code == 0
    for row in (
        r"dtd +test +47 +1,880 +partial +get it from",
        r"food-101 +test +0 +25,250 +unavailable +.*Get it from",
        r"imagenet-1k +test +0",
    ):
        assert re.search(row, out), row
    assert sorted(data.rglob("*")) == before
    sizes = {"train": 1, "test": 250}
    root = write_elevater(tmp_path / "mixed", sizes, only=["hateful-memes", "mnist"])
    (root / "mnist" / "test" / "stray.png").write_bytes(b"x")
    code, out, _ = run("check", str(root))
    assert code == 1 and re.search("mnist +test .* wrong", out)
    assert re.search("hateful-memes +test .* complete", out)
    assert run("check", str(tmp_path / "nosuch"))[0] == 2


def test_domains_are_written_into_the_project_and_are_valid(
    tiny_project: Project, run, data: Path
) -> None:
    code, out, _ = run("domains", str(data))
    assert code == 0 and "elevater.yaml" in out
    assert tiny_project.domain("elevater").class_names
    code, _, reported = run("domains", "nosuch")
    assert code == 2 and "nosuch: no such folder" in reported


def test_a_submission_is_written_of_fresh_results(
    make_project: Callable[..., Project], run, data: Path
) -> None:
    project = make_project(elevater={"root": str(data), "datasets": ["mnist"]})
    publish_base(project)
    publish_features(project, "shapes", "base")
    publish_results(project, "shapes", "base")
    submit = "submit", "shapes", "base", "--to", "mine.zip"
    code, out, _ = run(*submit)
    assert code == 0 and "1 of the 20 data sets: mnist" in out and Path("mine.zip").is_file()
    code, _, reported = run(*submit, "--experiment", "finetuning_full")
    assert code == 2 and "zero_shot" in reported
    code, _, reported = run("submit", "shapes", "full", "--to", "mine.zip")
    assert code == 2 and "has not been materialized" in reported


def test_retrieval_prints_recall_both_ways(tiny_project: Project, run, tmp_path: Path) -> None:
    publish_base(tiny_project)
    file, rows = tmp_path / "captions.json", []
    for name in ("red", "green", "blue"):
        Image.new("RGB", (40, 40), name).save(tmp_path / f"{name}.png")
        sentences = [{"raw": f"a {name} square"}, {"raw": name}]
        rows.append({"filename": f"{name}.png", "split": "test", "sentences": sentences})
    file.write_text(json.dumps({"images": rows}))
    code, out, reported = run("retrieval", str(file), str(tmp_path))
    assert code == 0, reported
    assert "3 images, 6 captions" in out
    ways = [line.split()[-2:] for line in out.splitlines() if " to " in line]
    assert ways == [["100.0", "100.0"]] * 2  # R@5 and R@10: there are only three images
    for arguments, words in (
        (["shapes"], "give a domain and a method"),
        (["shapes", "linear-head"], "own features"),
    ):
        code, _, reported = run("retrieval", str(file), str(tmp_path), *arguments)
        assert code == 2 and words in reported, reported
    (tmp_path / "red.png").write_bytes(b"x")
    code, _, reported = run("retrieval", str(file), str(tmp_path))
    assert code == 2 and "1 of 3 images cannot be used" in reported
    (tmp_path / "red.png").unlink()
    shutil.rmtree(tiny_project.config.store)  # the images are looked for before the model
    code, _, reported = run("retrieval", str(file), str(tmp_path))
    assert code == 2 and "1 of 3 images are missing" in reported and "red.png" in reported
