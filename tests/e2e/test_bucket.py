"""A lineage whose artifacts are in object storage has the fingerprints and files of a local one,
and everything that looks at a project works on it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
import yaml
from support.bucket import BucketServer
from support.upkeep import METHODS, build_all

from react_pipeline.assets.launch import fresh_artifact
from react_pipeline.extensions.automation.survey import State, survey
from react_pipeline.lineage import fresh, run
from react_pipeline.preflight import store_problems
from react_pipeline.project.project import Project
from react_pipeline.store.errors import ConfigError

SHARED = ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index")
OF_DOMAIN = ("evaluation_set", "retrieved_set", "control_set")


def in_bucket(project: Project, url: str = "") -> Project:
    """The project with another store; a process keeps one client a URL."""
    fields = yaml.safe_load(project.path.read_text())
    fields |= {
        "store": url or f"s3://artifacts/{project.path.parent.name}",
        "cache": {"folder": "cache"},
    }
    project.path.write_text(yaml.safe_dump(fields))
    return Project.load(project.path)


def test_artifacts_are_those_of_a_local_store(
    retrieved_project: Project, server: BucketServer
) -> None:
    local = Project.load(retrieved_project.path)
    project = in_bucket(retrieved_project)
    assert project.store.address("corpus", "all").startswith("s3://")
    places = [(stage, "all") for stage in SHARED] + [(stage, "shapes") for stage in OF_DOMAIN]
    for place in places:
        built = run(project, *place)
        assert not built.reused
        assert built.fingerprint == local.store.current(*place).fingerprint
    server.requests.clear()
    opened = fresh_artifact(project, *places[-1])
    assert opened and opened.fingerprint == built.fingerprint
    manifests = [
        path for _, path in server.requests if path.endswith(f"{built.fingerprint}/manifest.json")
    ]
    assert len(manifests) == 1
    # A machine that has no copy reads all it needs from the bucket.
    shutil.rmtree(project.config.store)
    ours, theirs = (one.store.current("retrieved_set", "shapes") for one in (project, local))
    assert ours.manifest["files"].keys() == theirs.manifest["files"].keys()
    assert ours.file("pairs.parquet").read_bytes() == theirs.file("pairs.parquet").read_bytes()
    assert run(project, "retrieved_set", "shapes").reused


def test_upkeep_of_a_bucket_ends_fresh_and_looks_once(
    make_project: Callable[..., Project], server: BucketServer
) -> None:
    project = in_bucket(make_project(methods=list(METHODS)))
    build_all(project, ["shapes"])
    survey(project, ["shapes"])
    server.requests.clear()
    states = survey(project, ["shapes"]).states
    assert states["comparison", "shapes"] is State.FRESH
    assert set(server.requests) == {("GET", "/artifacts")}, "nothing but listings"
    # Another machine sees what this one looked at.
    shutil.rmtree(project.config.store)
    assert survey(project, ["shapes"]).states == states
    assert fresh(project, "customized_checkpoint", f"shapes/{METHODS[1]}").counts["pairs"] == 2


def test_a_bucket_that_is_not_there_is_a_problem(
    tiny_project: Project, server: BucketServer
) -> None:
    assert store_problems(tiny_project) == []
    assert store_problems(in_bucket(tiny_project)) == []
    (problem,) = store_problems(in_bucket(tiny_project, "s3://nobody-made-it/x"))
    assert (problem.field, "no such bucket" in problem.message) == ("store", True)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "s3://user:password@bucket/x", "s3://", "s3://bucket/../x?y"]
)
def test_a_url_that_names_no_prefix_is_refused(tiny_project: Project, url: str) -> None:
    with pytest.raises(ConfigError, match="store: must be a folder, or s3://"):
        in_bucket(tiny_project, url)
