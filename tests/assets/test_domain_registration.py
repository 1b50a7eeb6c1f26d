"""The sensor `domain_files`: FAULTS 21 to 23 as Dagster meets them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import dagster as dg
import pytest
from support import launch

from react_pipeline.assets.partitions import DOMAINS
from react_pipeline.project.project import Project

Tick = Callable[[], Any]


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def tick(tiny_project: Project, instance: dg.DagsterInstance) -> Tick:
    """One tick of `domain_files`."""
    return partial(launch.tick, instance, launch.repository(tiny_project), "domain_files")


def test_valid_files_become_partitions_despite_broken_ones(
    tiny_project: Project, tick: Tick, instance: dg.DagsterInstance
) -> None:
    folder = tiny_project.config.domains
    (folder / "broken.yaml").write_text("classes: [cat, cat]\ncolour: red\n")
    (folder / "Shapes.yaml").write_text("classes: [cat]\n")
    (folder / "tag.yaml").write_text("classes: !!python/object/apply:os.getcwd []\n")
    said = tick().skip_message
    assert instance.get_dynamic_partitions(DOMAINS) == ["colours", "shapes"]
    for words in (
        "broken.yaml:1: classes",
        "broken.yaml:2: colour: unknown field",
        "Shapes.yaml:1: 'Shapes'",
        "tag.yaml",
    ):
        assert words in said


def test_a_domain_is_registered_once_and_seen_with_each_meaning(
    tiny_project: Project, tick: Tick
) -> None:
    tick()
    texts = ("classes: [owl]\n", "# a remark\nclasses:\n  - owl\n", "classes: [owl, robin]\n")
    ticks = []
    for text in texts:
        (tiny_project.config.domains / "birds.yaml").write_text(text)
        ticks.append(tick())
    (request,) = (request for one in ticks for request in one.dynamic_partitions_requests)
    assert request.partition_keys == ["birds"]
    (first,), none, (second,) = (one.asset_events for one in ticks)
    assert not none
    assert (first.asset_key.path[-1], first.partition) == ("domain_file", "birds")
    assert second.metadata["class_names"].value == "owl, robin"
    assert first.tags["dagster/data_version"] != second.tags["dagster/data_version"]


def test_domain_whose_file_is_gone_is_kept_and_reported(
    tiny_project: Project, tick: Tick, instance: dg.DagsterInstance
) -> None:
    tick()
    (tiny_project.config.domains / "shapes.yaml").unlink()
    assert "shapes: its file is gone" in tick().skip_message
    assert "shapes" in instance.get_dynamic_partitions(DOMAINS)


def test_broken_pipeline_file_is_reported_and_changes_nothing(
    tiny_project: Project, tick: Tick
) -> None:
    tick()
    text = tiny_project.path.read_text()
    tiny_project.path.write_text("store: 3\n")
    result = tick()
    assert "corpus" in result.skip_message and not result.dynamic_partitions_requests
    tiny_project.path.write_text(text)
    assert not tick().asset_events
