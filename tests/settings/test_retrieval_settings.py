"""Settings of retrieval: each does something beside the others, also where a domain's own join the
pipeline's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from react_pipeline.extensions.doctor.diagnosis import _inputs
from react_pipeline.project.project import Project
from react_pipeline.settings.files import load_domain
from react_pipeline.settings.retrieval import RetrievalConfig
from react_pipeline.store.errors import ConfigError

IDLE = [
    ({"rank": "prompts", "choose": "all"}, "`rank: prompts` does nothing"),
    (
        {"min_similarity": {"i2i": 0.3}},
        "`min_similarity.i2i` does nothing with `modes: [t2t, t2i]`",
    ),
    (
        {"modes": ["t2t", "t2i", "t2t"]},
        "t2t listed more than once",
    ),
]


def project(
    folder: Path, retrieval: dict[str, Any], of_domain: dict[str, Any] | None = None
) -> Project:
    corpus = {"kind": "webdataset", "shards": ["*.tar"]}
    raw = {"corpus": corpus, "encoder": {"model": "demo"}, "retrieval": retrieval}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(raw))
    (folder / "domains").mkdir()
    (folder / "domains/pets.yaml").write_text(
        yaml.safe_dump({"classes": ["cat"], "retrieval": of_domain or {}})
    )
    return Project.load(folder / "pipeline.yaml")


@pytest.mark.parametrize(("retrieval", "reported"), IDLE)
def test_a_setting_without_effect_is_refused_with_way_out(
    tmp_path: Path, retrieval: dict[str, Any], reported: str
) -> None:
    with pytest.raises(ConfigError) as error:
        project(tmp_path, retrieval)
    assert re.match(rf"{tmp_path}/pipeline.yaml:\d+: retrieval", str(error.value))
    assert reported in str(error.value)


@pytest.mark.parametrize(("retrieval", "reported"), IDLE[:1])
def test_so_is_one_in_a_domain_file(
    tmp_path: Path, retrieval: dict[str, Any], reported: str
) -> None:
    with pytest.raises(ConfigError) as error:
        project(tmp_path, {}, retrieval).retrieval("pets")
    assert re.match(rf"{tmp_path}/domains/pets.yaml(:\d+)?: retrieval", str(error.value))
    assert reported in str(error.value)


@pytest.mark.parametrize(
    ("of_pipeline", "of_domain", "reported"),
    [
        (
            {"min_similarity": {"t2t": 0.6, "t2i": 0.25}},
            {"modes": ["t2t"]},
            "`min_similarity.t2i` does nothing with `modes: [t2t]`",
        ),
        (
            {},
            {"min_similarity": {"i2i": 0.2}},
            "(pets.yaml is joined with pipeline.yaml)",
        ),
    ],
)
def test_contradicting_files_are_named_and_hold_up_no_other(
    tmp_path: Path, of_pipeline: dict[str, Any], of_domain: dict[str, Any], reported: str
) -> None:
    joined = project(tmp_path, of_pipeline, of_domain)
    assert joined.domain("pets").class_names == ["cat"]
    with pytest.raises(ConfigError, match=re.escape(reported)):
        joined.retrieval("pets")
    assert reported in "".join(line.detail for line in _inputs(joined) if line.what == "domains")


def test_settings_that_go_together_are_joined(tmp_path: Path) -> None:
    of_pipeline = {"min_similarity": {"t2t": 0.6, "t2i": 0.25}, "k_per_prompt": 7}
    of_domain = {"modes": ["t2t"], "min_similarity": {"t2t": 0.6}}
    joined = project(tmp_path, of_pipeline, of_domain).retrieval("pets")
    assert joined == RetrievalConfig(**{**of_pipeline, **of_domain})


@pytest.mark.parametrize(
    ("where", "problem"),
    [
        ("width >", 'near ">"'),
        ("true) FROM pairs; SELECT (true", 'near ")"'),
        ("width > 3; SELECT true", 'near ";"'),
        ("true limit 1", 'near "limit"'),
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
    with pytest.raises(ConfigError, match="retrieval.where") as error:
        load_domain(path)
    assert problem in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    "where",
    [
        "true -- several\n-- comments",
        "not (nsfw = 'NSFW' or nsfw is null)",
        "license similar to 'cc.*'",
        "license = 'it''s; -- no comment'",
        "try_cast(width as double) > 3",
        "case when width > 3 then true else false end",
        "len(list_filter(['a', 'b'], lambda x: x = license)) > 0",
        "\"a field, with 'quotes'\" = 'x'",
        "exists (select 1 where width > 3)",
    ],
)
def test_every_kind_of_expression_is_a_filter(where: str) -> None:
    assert RetrievalConfig(where=where).where == where


def test_a_filter_is_read_where_nothing_is_retrieved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)  # as in the light installation
    assert RetrievalConfig(where="height > 7").where == "height > 7"


THREADS = """
import os, time
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
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux")
def test_a_filter_that_is_read_leaves_no_thread() -> None:  # a process with threads cannot fork
    run = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, check=True)
    assert int(run.stdout) == 0


@pytest.mark.parametrize("number", [".nan", ".inf"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, number: str) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text(f"classes: [cat]\nretrieval: {{min_similarity: {{t2t: {number}}}}}\n")
    with pytest.raises(ConfigError, match=r"retrieval.min_similarity.t2t"):
        load_domain(path)
