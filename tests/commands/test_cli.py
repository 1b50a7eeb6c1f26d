from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from support.commands import call
from support.launch import dagster_home
from support.promotion import publish_results
from support.upkeep import edit

from react_pipeline.assets import launch
from react_pipeline.evaluation.comparison import compare
from react_pipeline.project.project import Project
from react_pipeline.retrieval.decontamination import VECTORS
from react_pipeline.settings.files import load_pipeline
from react_pipeline.store.errors import CorpusError


@pytest.fixture
def run(
    tmp_path: Path,
    mlflow_database: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("REACT_PIPELINE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(mlflow_database, tmp_path)
    with dagster_home(tmp_path / "home"):
        yield partial(call, capsys)


def test_help_shows_commands_by_what_they_are_for(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)
    shown = run("--help")[1]
    assert re.search(r"\bstatus .*\bhow to fix it\.", shown)  # a summary has no line breaks
    panels = re.findall(r"─ (.+?) ─", shown)
    parts = ["Start", "Build", "Look at the data", "Use a model", "Operate", "Benchmarks"]
    assert panels == ["Options", *parts]


def test_a_failed_run_ends_with_its_causes_and_counts(
    tiny_project: Project, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [("customized_checkpoint", f"{slug}/gda") for slug in ("colours", "shapes")]
    summary = launch.Summary(
        built=1,
        failed={
            ("corpus", "all"): "no such folder\nor file",
            **dict.fromkeys(heads, "the disk is full"),
        },
        skipped={("faiss_index", "all"): "corpus failed", ("overview", "all"): "corpus failed"},
    )
    monkeypatch.setattr(launch, "materialize", lambda *_: summary)
    code, out, reported = run("materialize")
    assert code == 1 and reported.splitlines() == [
        "error: corpus failed: no such folder",
        "error: or file",
        "error: customized_checkpoint colours/gda, customized_checkpoint shapes/gda failed: "
        "the disk is full",
    ]
    counts, following = out.splitlines()
    assert counts.startswith("1 built, 0 as before, 3 failed, 2 skipped")
    assert following.startswith("next: ")


def test_results_name_the_domain_files_that_they_leave_out(tiny_project: Project, run) -> None:
    answers = {"base": [False, True] * 2, "gated-image": [True, True] * 2}
    publish_results(tiny_project, "colours", answers)
    compare(tiny_project, "colours")
    rows = json.loads(run("results", "--format", "json")[1])
    top1 = [row["top1"] for row in rows if row["domain"] == "colours"]
    table = csv.DictReader(io.StringIO(run("results", "--format", "csv")[1]))
    shown = [float(row["top1"]) for row in table if row["domain"] == "colours"]
    assert sorted(top1) == sorted(shown) == [0.5, 1.0]
    (tiny_project.config.domains / "shapes.yaml").write_text("classes: []\n")
    code, out, reported = run("results")
    (line,) = reported.splitlines()
    assert code == 0 and "shapes" not in out and "50.0" in out
    assert out.splitlines()[0].split()[-1] == "status"
    assert line.startswith("note: left out: ") and "shapes.yaml" in line


def test_the_demo_makes_an_empty_folder_its_project(run, tmp_path: Path) -> None:
    kept = tmp_path / "domains" / "things.yaml"  # the first that is built
    kept.parent.mkdir()
    kept.write_text("classes: []\n")  # wrong, so that nothing is built
    code, out, reported = run("demo")
    assert code == 2 and "things.yaml" in reported
    assert str(tmp_path) in out.replace("\n", "")
    assert kept.read_text() == "classes: []\n"
    domains = {path.stem for path in kept.parent.iterdir()}
    assert domains == {"activities", "objects", "symbols", "things"}
    assert load_pipeline(tmp_path / "pipeline.yaml").corpus.kind == "demo"


def test_domain_files_are_validated(tiny_project: Project, run, tmp_path: Path) -> None:
    domains = tiny_project.config.domains
    assert "2 valid" in run("domains", "validate")[1]
    edit(domains / "shapes.yaml", evaluation={"name": "demo/activities", "kind": "demo"})
    assert run("domains", "validate")[0] == 0  # images that are drawn are not listed
    folder = tmp_path / "labelled"
    (folder / "sqare").mkdir(parents=True)
    (folder / "sqare" / "1.png").write_bytes(b"listed, not read")
    labelled = {"name": "mine", "kind": "folder", "path": str(folder)}
    edit(domains / "shapes.yaml", evaluation=labelled)
    (domains / "bad.yaml").write_text("classes: []\ncolour: red\n")
    code, _, reported = run("domains", "validate")
    assert code == 2 and "bad.yaml:2: colour: unknown field" in reported
    assert "shapes.yaml: evaluation: " in reported and "sqare: no class" in reported
    (domains / "bad.yaml").unlink()
    edit(domains / "shapes.yaml", evaluation=None, retrieval={"modes": ["t2i"]})
    edit(tiny_project.path, retrieval={"choose": "all"})
    code, _, reported = run("domains", "validate")
    assert code == 2 and len(reported.splitlines()) == 1
    assert "shapes.yaml: retrieval: `choose: all`" in reported
    # Alone it says nothing wrong, and what it may be joined with is not known.
    assert "1 valid" in run("domains", "validate", str(domains / "shapes.yaml"))[1]


def test_search_prints_the_nearest_and_draws_them(
    indexed_project: Project, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("search", "a drawing of a red circle", "-k", "3", "-o", "found.png")
    assert code == 0 and out.count("a drawing of a red circle") == 3
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.height > 300
    code, out, _ = run("search", "a drawing of a red circle", "--mode", "t2i", "-k", "2")
    assert code == 0 and "search.png" in out

    def gone(*_: object) -> None:
        raise CorpusError("0.tar: cannot be read\x1b[2J")

    monkeypatch.setattr("react_pipeline.extensions.pages.search.draw_pairs", gone)
    code, out, reported = run("search", "a circle", "-k", "3")
    assert (code, reported) == (2, "error: 0.tar: cannot be read\N{REPLACEMENT CHARACTER}[2J\n")
    assert out.count("a drawing of a") == 3 and "pictures" not in out


def test_prune_removes_what_nothing_current_was_made_from(indexed_project: Project, run) -> None:
    left = indexed_project.config.store / ".scratch" / "corpus--all--0123456789abcdef"
    vectors = indexed_project.config.store / VECTORS / "x-y.npy"
    left.mkdir(parents=True)
    vectors.parent.mkdir(parents=True)
    vectors.touch()
    for path in (left, vectors):
        os.utime(path, (0, 0))
    assert run("prune", "--dry-run")[0] == 0 and left.exists() and vectors.exists()
    code, out, _ = run("prune")
    assert code == 0 and {str(left), str(vectors)} <= {*out.split()}
    assert not left.exists() and not vectors.exists()
    left.mkdir()
    assert run("prune")[0] == 0 and left.exists()
    # Another host may hold it.
    assert run("prune", "--keep-hours", "0")[0] == 0 and left.exists()


def test_doctor_reports_what_is_there_and_what_is_missing(
    tiny_project: Project, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run("doctor")
    assert code == 0
    shown = (
        "torch",
        "dagster",
        "webdataset: ",
        "colours, shapes",
        "current artifacts",
        "sqlite:///",
    )
    assert all(words in out for words in shown)
    edit(tiny_project.path, corpus={"shards": ["nosuch/*.tar"]})
    code, out, _ = run("doctor")
    assert code == 1 and "nosuch" in out
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    code, out, _ = run("doctor")
    assert code == 0 and "react-pipeline init" in out
    assert "is a folder" in run("doctor", "--config", ".")[1]


def test_broken_domain_file_is_left_out_and_the_others_run(
    indexed_project: Project, run, caplog
) -> None:  # FAULTS 21
    (indexed_project.config.domains / "broken.yaml").write_text("classes: []\n")
    code, out, _ = run("materialize", "--select", "evaluation_set")
    assert code == 0
    assert "2 built" in out
    assert "broken.yaml" in caplog.text


def test_verify_names_a_damaged_artifact(indexed_project: Project, run) -> None:
    index = indexed_project.store.current("faiss_index", "all").file("text.index")
    index.write_bytes(index.read_bytes()[:-1] + b"\0\0")
    code, printed, reported = run("verify")
    assert code == 1 and "as published" in printed and "rematerialize `faiss_index`" in reported
