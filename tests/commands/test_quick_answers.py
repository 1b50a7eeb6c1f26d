"""Mistakes that names and paths show are answered before anything large is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from react_pipeline.extensions.demo.commands import write_demo_project
from react_pipeline.project.project import Project

MISTAKES = {
    "nosuch": "No such command",
    "results --nosuch": "No such option",
    "status --config .": "is a folder",
    "demo --config pipeline.yaml": "the demo needs `demo`",
    "predict nosuch pictures": "no domain 'nosuch'",
    "predict shapes nosuch": "nosuch: no such folder",
    "predict shapes empty": "empty: holds no picture",
    "predict shapes pictures --model nosuch": "unknown method 'nosuch'",
    "predict shapes pictures --output pictures": "pictures: holds other files",
    "predict shapes pictures --output pipeline.yaml/x": "pipeline.yaml is no folder",
    "predict shapes pictures --top-k 0": "--top-k",
    "embed shapes nosuch": "nosuch: no such folder",
    "advise nosuch": "no domain 'nosuch'",
    "advise shapes": "react-pipeline materialize --select '*control_set' --domain shapes",
    "review nosuch": "no domain 'nosuch'",
    "judge nosuch pictures": "no domain 'nosuch'",
    "judge shapes nosuch": "nosuch: no such folder",
    "judge shapes pictures --candidate nosuch": "--candidate 'nosuch': choose from champion, base",
    "judge shapes pictures --against nosuch": "--against 'nosuch': choose from champion, base",
    "labels import shapes nosuch": "nosuch: no such folder",
    "dense check shapes": "dense.datasets or dense.own, are not set",
    "export nosuch champion --to out": "no domain 'nosuch'",
    "export shapes nosuch --to out": "unknown method 'nosuch'",
    "materialize --domain nosuch": "no domain 'nosuch'",
    "materialize --method nosuch": "unknown method 'nosuch'",
    "results --format xml": "xml",
    "models list nosuch": "no domain 'nosuch'",
    "models promote shapes nosuch --reason x": "unknown method 'nosuch'",
    "models promote nosuch full --reason x": "no domain 'nosuch'",
    "domains names nosuch": "no domain 'nosuch'",
    "domains validate nosuch.yaml": "nosuch.yaml: cannot be read",
    "status --config nosuch.yaml": "nosuch.yaml: no such file",
    "init new --corpus nosuch": "there is no such kind",
}

SEARCHES = {
    "search": "say what to search for, or give --image",
    "search cat --image cat.png": "not both",
    "search --image nosuch.png": "nosuch.png: cannot be read",
    "search --image pipeline.yaml --mode t2t": "use i2i or i2t",
    "search cat -k 0": "-k",
    "search cat --mode i2i": "use t2t or t2i",
    "search cat": "react-pipeline materialize --select '*faiss_index'",
}

CODE = """
import contextlib, io, json, sys
from react_pipeline.commands.cli import main
answers = {}
for question in json.loads(sys.argv[1]):
    shown = io.StringIO()
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(shown):
        try:
            main(question.split())
        except SystemExit as stop:
            answers[question] = [stop.code, *shown.getvalue().splitlines()]
large = {"torch", "open_clip", "mlflow", "dagster", "scipy.optimize"} & sys.modules.keys()
print(json.dumps([answers, "pandas" in sys.modules, sorted(large)]))
"""


def asked(folder: Path, questions: Iterable[str]) -> tuple[dict[str, Any], bool]:
    """Exit codes and what commands show, and whether pandas was loaded; nothing larger was."""
    command = [sys.executable, "-c", CODE, json.dumps(list(questions))]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers, pandas, large = json.loads(done.stdout)
    assert large == []
    return answers, pandas


def test_questions_about_the_demo_load_no_model(tmp_path: Path) -> None:
    write_demo_project(tmp_path)
    answers, _ = asked(tmp_path, ["domains validate", "results"])
    assert answers["domains validate"] == [0, "4 valid"]


def test_mistakes_are_answered_before_anything_is_loaded(tiny_project: Project) -> None:
    folder = tiny_project.path.parent
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.jpg").touch()
    for mistakes in (MISTAKES, SEARCHES):
        answers, pandas = asked(folder, mistakes)
        for mistake, token in mistakes.items():
            code, line = answers[mistake]
            assert code == 2 and line.startswith("error: ") and token in line, mistake
        assert not pandas or mistakes is SEARCHES
