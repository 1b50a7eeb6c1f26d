"""Settings of retrieval: a domain's own are joined with the pipeline's, and a filter is one
expression.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.upkeep import edit_domain

from react_pipeline.project.project import Project
from react_pipeline.settings.files import load_domain
from react_pipeline.store.errors import ConfigError


def test_settings_of_both_files_are_joined(make_project: Callable[..., Project]) -> None:
    project = make_project(retrieval={"choose": "all"})
    edit_domain(project, "shapes", retrieval={"modes": ["t2i"]})
    assert project.domain("shapes").class_names
    message = r"shapes.yaml: retrieval: `choose: all`.*\(shapes.yaml is joined with pipeline.yaml\)"
    with pytest.raises(ConfigError, match=message):
        project.retrieval("shapes")
    edit_domain(project, "shapes", retrieval={"modes": ["t2t"]})
    joined = project.retrieval("shapes")
    assert (joined.choose, joined.modes, joined.k_per_prompt) == ("all", ("t2t",), 10)
    floor = {"modes": ["t2t"], "min_similarity": {"t2i": 0.3}}  # of a mode that is not searched
    edit_domain(project, "shapes", retrieval=floor)
    with pytest.raises(ConfigError, match=r"`min_similarity\.t2i` does nothing"):
        project.retrieval("shapes")
    with pytest.raises(ConfigError, match=r"pipeline.yaml:\d+: retrieval.modes: t2t listed more"):
        make_project(retrieval={"modes": ["t2t", "t2t"]})


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("width >", 'near ">"'),
        ("true) FROM pairs; SELECT (true", 'near ")"'),
        ("width > 3; SELECT true", 'near ";"'),
        ("license, width", 'near ","'),
        ("width > 3 as wide", 'near "as"'),
        ("-- all of them", "is not one SQL expression"),
    ],
)
def test_an_error_in_a_filter_is_about_what_the_user_wrote(
    tmp_path: Path, where: str, problem: str
) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump({"classes": ["cat"], "retrieval": {"where": where}}))
    with pytest.raises(ConfigError, match=rf"{path}:\d: retrieval.where: .*{re.escape(problem)}"):
        load_domain(path)


THREADS = """
import os, sys, time
import duckdb
from react_pipeline.settings import RetrievalConfig
def threads():
    return len(os.listdir("/proc/self/task"))
before = threads()
RetrievalConfig(where="width > 3")
until = time.monotonic() + 10  # a thread that has ended is listed a moment longer
while threads() > before and time.monotonic() < until:
    time.sleep(0.01)
print(threads() - before)
sys.modules["duckdb"] = None  # as in the light installation, which retrieves nothing
RetrievalConfig(where="height > 7")
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux")
def test_a_filter_that_is_read_leaves_no_thread() -> None:  # a process with threads cannot fork
    run = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, check=True)
    assert int(run.stdout) == 0
