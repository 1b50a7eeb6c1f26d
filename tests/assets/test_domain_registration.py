"""The sensor `domain_files`: FAULTS 21 to 23 as Dagster meets them."""

from __future__ import annotations

import dagster as dg

from react_pipeline.assets.domain_files import domain_files
from react_pipeline.assets.partitions import DOMAINS
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.project.project import Project


def register(project: Project, instance: dg.DagsterInstance) -> dg.SensorResult:
    """One tick of `domain_files`, carried out as the daemon does."""
    context = dg.build_sensor_context(instance=instance)
    (sensor,) = domain_files(ProjectResource(config_path=str(project.path)), [])
    result = sensor(context)
    for request in result.dynamic_partitions_requests:
        instance.add_dynamic_partitions(DOMAINS, request.partition_keys)
    for event in result.asset_events:
        instance.report_runless_asset_event(event)
    return result


def reported(result: dg.SensorResult) -> str:
    return result.skip_reason.skip_message


def test_valid_files_become_partitions_despite_broken_ones(tiny_project: Project) -> None:
    folder = tiny_project.config.domains
    (folder / "broken.yaml").write_text("classes: [cat, cat]\ncolour: red\n")
    (folder / "Shapes.yaml").write_text("classes: [cat]\n")
    (folder / "tag.yaml").write_text("classes: !!python/object/apply:os.getcwd []\n")
    with dg.DagsterInstance.ephemeral() as instance:
        result = register(tiny_project, instance)
        assert instance.get_dynamic_partitions(DOMAINS) == ["colours", "shapes"]
        for words in (
            "broken.yaml:1: classes",
            "broken.yaml:2: colour: unknown field",
            "Shapes.yaml:1: 'Shapes'",
            "tag.yaml",
        ):
            assert words in reported(result)


def test_new_file_is_registered_once_and_seen_with_its_version(tiny_project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        register(tiny_project, instance)
        (tiny_project.config.domains / "birds.yaml").write_text("classes: [owl, robin]\n")
        second = register(tiny_project, instance)
        assert second.dynamic_partitions_requests[0].partition_keys == ["birds"]
        (event,) = second.asset_events
        assert (event.asset_key.path[-1], event.partition) == ("domain_file", "birds")
        assert event.metadata["class_names"].value == "owl, robin"
        third = register(tiny_project, instance)
        assert not third.dynamic_partitions_requests and not third.asset_events


def test_only_a_change_of_meaning_is_another_version(tiny_project: Project) -> None:
    path = tiny_project.config.domains / "birds.yaml"
    versions = []
    with dg.DagsterInstance.ephemeral() as instance:
        for text in (
            "classes: [owl]\n",
            "# a remark\nclasses:\n  - owl\n",
            "classes: [owl, robin]\n",
        ):
            path.write_text(text)
            result = register(tiny_project, instance)
            versions += [
                event.tags["dagster/data_version"]
                for event in result.asset_events
                if event.partition == "birds"
            ]
    assert len(versions) == len(set(versions)) == 2


def test_domain_whose_file_is_gone_is_kept_and_reported(tiny_project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        register(tiny_project, instance)
        (tiny_project.config.domains / "shapes.yaml").unlink()
        assert "shapes: its file is gone" in reported(register(tiny_project, instance))
        assert "shapes" in instance.get_dynamic_partitions(DOMAINS)


def test_broken_pipeline_file_is_reported_and_changes_nothing(tiny_project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        register(tiny_project, instance)
        text = tiny_project.path.read_text()
        tiny_project.path.write_text("store: 3\n")
        result = register(tiny_project, instance)
        assert "corpus" in reported(result)
        assert not result.dynamic_partitions_requests
        tiny_project.path.write_text(text)
        assert not register(tiny_project, instance).asset_events
