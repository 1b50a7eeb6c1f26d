"""The sensor of domain files; FAULTS 21 to 23 as Dagster meets them."""

from __future__ import annotations

import dagster as dg

from assets.automation import domain_files
from assets.resources import ProjectResource
from react_pipeline.lineage import Project


def tick(project: Project, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    result = domain_files(context, project=ProjectResource(config_path=str(project.path)))
    for request in result.dynamic_partitions_requests:
        instance.add_dynamic_partitions("domains", request.partition_keys)
    return result


def test_valid_files_become_partitions_and_broken_ones_hold_up_none(tiny_project: Project) -> None:
    folder = tiny_project.config.domains
    (folder / "broken.yaml").write_text("classes: [cat, cat]\ncolour: red\n")
    (folder / "Shapes.yaml").write_text("classes: [cat]\n")
    (folder / "tag.yaml").write_text("classes: !!python/object/apply:os.getcwd []\n")
    with dg.DagsterInstance.ephemeral() as instance:
        result = tick(tiny_project, instance)
        assert instance.get_dynamic_partitions("domains") == ["colours", "shapes"]
        told = result.skip_reason.skip_message
        for words in ("broken.yaml: classes", "broken.yaml: colour: unknown field", "Shapes.yaml: slug", "tag.yaml"):
            assert words in told
        assert result.cursor == told


def test_new_file_is_registered_once(tiny_project: Project) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        tick(tiny_project, instance)
        (tiny_project.config.domains / "birds.yaml").write_text("classes: [owl, robin]\n")
        assert tick(tiny_project, instance).dynamic_partitions_requests[0].partition_keys == ["birds"]
        assert not tick(tiny_project, instance).dynamic_partitions_requests


def test_broken_pipeline_file_is_told_and_changes_nothing(tiny_project: Project) -> None:
    tiny_project.path.write_text("store: 3\n")
    with dg.DagsterInstance.ephemeral() as instance:
        result = tick(tiny_project, instance)
        assert "corpus" in result.skip_reason.skip_message
        assert not result.dynamic_partitions_requests
