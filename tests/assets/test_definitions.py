from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pandas as pd
import pytest
from support.new_methods import installed

from react_pipeline.assets import declared
from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.partitions import require_slug, to_partition_key
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.extension import Extension
from react_pipeline.project.project import Project
from react_pipeline.settings.methods import METHODS
from react_pipeline.stage import STAGES
from react_pipeline.store.errors import InputError

NOWHERE = ProjectResource(config_path="nowhere.yaml")

defs = build_defs(project=NOWHERE)
graph = defs.resolve_asset_graph()


def graph_of(project: Project, *methods: str) -> Any:
    resource = ProjectResource(config_path=str(project.path))
    return build_defs(methods, project=resource).resolve_asset_graph()


def upstream(partition: str, stage: str, parent: str = "customized_checkpoint") -> set[str]:
    parent_def, child_def = (
        graph.get(dg.AssetKey(name)).partitions_def for name in (parent, stage)
    )
    mapping = graph.get(dg.AssetKey(stage)).partition_mappings[dg.AssetKey(parent)]
    assert child_def is not None
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domains", ["shapes", "colours"])
        subset = child_def.empty_subset().with_partition_keys([partition])
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(
            subset, child_def, parent_def, dynamic_partitions_store=instance
        )
        return set(found.partitions_subset.get_partition_keys())


def test_every_stage_is_an_asset_that_explains_itself_to_a_newcomer() -> None:
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == set(STAGES)
    for name, stage in STAGES.items():
        node = graph.get(dg.AssetKey(name))
        assert len(node.description or "") > 80 and node.owners and node.kinds
        assert node.code_version == stage.version
        assert node.pools == {stage.pool} - {None}
        assert node.backfill_policy == (node.partitions_def and dg.BackfillPolicy.multi_run(1))


def test_assets_lead_to_their_code_and_name_their_owners(make_project) -> None:
    node = graph_of(make_project(owners=["ann@example.org"])).get(dg.AssetKey("corpus"))
    assert list(node.owners) == ["ann@example.org"]
    (reference,) = node.metadata["dagster/code_references"].code_references
    assert Path(reference.file_path).name == "corpus.py"


def test_the_index_claims_a_card_only_if_it_trains_there(
    make_project: Callable[..., Project],
) -> None:
    for index, pools in (({}, set()), ({"train_on": "faiss-gpu"}, {"gpu"})):
        project = make_project(index=index)
        assert graph_of(project).get(dg.AssetKey("faiss_index")).pools == pools


def test_each_method_is_evaluated_from_its_own_checkpoint() -> None:
    for stage in ("domain_results", "dense_results", "benchmark_results"):
        assert upstream(str(to_partition_key("shapes/base")), stage) == set()
        for method in tuple(METHODS)[1:]:
            if not STAGES[stage].is_for(METHODS[method]):
                continue
            key = str(to_partition_key(f"shapes/{method}"))
            assert upstream(key, stage) == {key}
    key = str(to_partition_key("shapes/full"))
    for stage, parent in (
        ("customized_checkpoint", "few_shot_set"),
        ("domain_results", "evaluation_set"),
        ("dense_results", "domain_file"),
    ):
        assert upstream(key, stage, parent) == {"shapes"}


def test_partitions_are_the_methods_that_the_pipeline_asks_for(make_project) -> None:
    project = make_project(methods=["base", "locked-text"])
    assert methods_of("domain_results", project) == ["base", "locked-text"]
    assert methods_of("domain_results", project, "full") == ["base", "locked-text", "full"]
    variants = {"head": {"method": "linear-head"}}
    project = make_project(methods=["base"], variants=variants, seeds=[0, 1])
    trained = {"head", "head-seed1", "head-control", "head-seed1-control"}
    assert set(methods_of("customized_checkpoint", project)) == trained


def test_what_cannot_be_made_is_no_partition_and_no_asset(make_project, tmp_path: Path) -> None:
    methods = ["base", "linear-head", "full", "linear-head-control"]
    project = make_project(methods=methods, dense={"root": str(tmp_path)})
    assert methods_of("dense_results", project) == ["base", "full"]
    assert set(methods_of("customized_checkpoint", project)) == set(methods[1:])
    found = stages_of(project)
    assert "dense_results" in found and not {"benchmark_results", "guard_results"} & found
    guards = {"sets": [{"name": "photos", "kind": "folder", "path": "photos"}]}
    alone = make_project(
        methods=["base", "linear-head"], dense={"root": str(tmp_path)}, guards=guards
    )
    found = stages_of(alone)
    assert {"dense_results", "guard_results"} <= found and "dense_comparison" not in found


def stages_of(project: Project) -> set[str]:
    return {key.path[-1] for key in graph_of(project).materializable_asset_keys}


def methods_of(stage: str, project: Project, *extra: str) -> list[str]:
    """The methods that a stage has partitions for."""
    found = graph_of(project, *extra).get(dg.AssetKey(stage)).partitions_def
    assert isinstance(found, dg.MultiPartitionsDefinition)
    return list(found.get_partitions_def_for_dimension("method").get_partition_keys())


def test_checks_block_except_those_that_compare() -> None:
    checks = {key.name: graph.get(key).blocking for key in graph.asset_check_keys}
    assert sorted(name for name, blocking in checks.items() if not blocking) == [
        "accuracy_is_at_least_base",
        "benchmark_mean_is_at_least_base",
        "champion_is_in_no_doubt",
        "classes_are_named",
        "gain_is_not_shared_by_the_control",
        "training_pairs_hold_no_test_image",
    ]
    assert len(checks) == 18


def checks_with(code: str, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The checks that an extension `Mine` adds."""
    names: dict[str, Any] = {"__name__": "mine", "Extension": Extension}
    exec(code, names)  # noqa: S102 - our own page
    before = set(graph.asset_check_keys)
    monkeypatch.setattr(declared, "_checks", dict(declared._checks))
    with installed("mine", names["Mine"]()):
        build_defs(project=NOWHERE)  # each reload of the code location asks again
        after = build_defs(project=NOWHERE).resolve_asset_graph().asset_check_keys
        return {key.name for key in set(after) - before}


def test_the_check_of_the_page_is_declared_and_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "extensions.md").read_text()
    code = page.split("## A check")[1].split("```python\n")[1].split("```")[0]
    assert checks_with(code, monkeypatch) == {"enough_pairs"}
    body: Any = declared._checks["retrieved_set", "enough_pairs"][0]
    path = tmp_path / "classes.parquet"
    for kept, passed in (([9, 5], True), ([9, 4], False)):
        pd.DataFrame({"kept": kept}).to_parquet(path)
        assert body(None, Mock(file=lambda _: path)).passed is passed


def test_a_check_with_the_name_of_another_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """class Mine(Extension):
    def declare_assets(self):
        from react_pipeline.assets import artifact_check

        @artifact_check("retrieved_set")
        def classes_have_pairs(project, artifact): ...
"""
    with pytest.raises(InputError, match="classes_have_pairs"):
        checks_with(code, monkeypatch)


def test_run_cannot_choose_its_project_and_so_not_where_it_logs() -> None:  # FAULTS 42
    (resource,) = defs.get_repository_def().get_top_level_resources().values()
    assert "nowhere.yaml" in str(resource.description), "it is shown"
    chosen = {"resources": {"project": {"config": {"config_path": "other.yaml"}}}}
    job = defs.resolve_implicit_global_asset_job_def()
    with pytest.raises(dg.DagsterInvalidConfigError, match="config_path"):
        job.execute_in_process(run_config=chosen, asset_selection=[dg.AssetKey("corpus")])


@pytest.mark.parametrize("name", ["..", "a/b", "x,y", "größe", ""])  # FAULTS 23
def test_a_partition_without_a_slug_is_refused_unread(name: str) -> None:
    with pytest.raises(dg.Failure, match="is not a domain") as failure:
        require_slug(name)
    assert failure.value.allow_retries is False


def test_each_job_has_one_scope_of_partitions() -> None:
    for name, partitions, made, other in (
        ("refresh_corpus", None, {"corpus", "base_checkpoint", "faiss_index"}, "overview"),
        (
            "customize_domain",
            dg.DynamicPartitionsDefinition(name="domains"),
            {"evaluation_set", "retrieved_set", "control_set"},
            "comparison",
        ),
    ):
        job = defs.resolve_job_def(name)
        stages = {key.path[-1] for key in job.asset_layer.executable_asset_keys}
        assert job.partitions_def == partitions and made <= stages and other not in stages
