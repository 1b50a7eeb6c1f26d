from __future__ import annotations

import ast
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_defs, defs
from assets.domains import customized_checkpoint
from assets.evaluation import elevater_results
from assets.partitions import TRAINED_METHODS, evaluation_partitions, partition_of, require_slug, training_partitions
from assets.resources import ProjectResource
from react_pipeline.lineage import STAGES
from react_pipeline.settings.training import METHODS

MAX_BODY_LINES = 25
FOUND_AT_RUN_TIME = {"comparison", "benchmark_comparison", "promotion", "overview"}
"""Stages whose parents are whichever artifacts there are."""

ASSETS = Path(__file__).parents[2] / "assets"
graph = defs.resolve_asset_graph()


def upstream(asset: dg.AssetsDefinition, parent: str, partition: dg.MultiPartitionKey) -> set[str]:
    parent_def = training_partitions if parent == "customized_checkpoint" else None
    mapping = asset.get_partition_mapping(dg.AssetKey(parent))
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("domains", ["shapes", "colours"])
        subset = evaluation_partitions.empty_subset().with_partition_keys([partition])
        found = mapping.get_upstream_mapped_partitions_result_for_partitions(
            subset, evaluation_partitions, parent_def, dynamic_partitions_store=instance
        )
        return set(found.partitions_subset.get_partition_keys())


def test_every_stage_of_the_lineage_is_an_asset() -> None:
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == set(STAGES)


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in FOUND_AT_RUN_TIME])
def test_assets_depend_on_one_another_as_the_lineage_says(stage: str) -> None:
    parents = {key.to_user_string() for key in graph.get(dg.AssetKey(stage)).parent_keys}
    expected = {name for method in METHODS for name in STAGES[stage].parents(f"shapes/{method}")}
    if stage not in ("customized_checkpoint", "elevater_results", "benchmark_features", "benchmark_results"):
        expected = set(STAGES[stage].parents("shapes"))
    elif stage == "customized_checkpoint":
        expected = {"base_checkpoint", "retrieved_set", "control_set"}
    if stage in ("evaluation_set", "retrieved_set"):
        expected |= {"domain_file"}
    assert parents == expected


@pytest.mark.parametrize("stage", STAGES)
def test_assets_tell_a_newcomer_what_they_are(stage: str) -> None:
    node = graph.get(dg.AssetKey(stage))
    assert len(node.description or "") > 80
    assert node.owners and node.kinds
    assert node.group_name in {"corpus", "retrieval", "customization", "evaluation", "benchmark"}
    assert node.code_version == STAGES[stage].code_version


def test_work_on_the_device_shares_one_pool() -> None:
    pools = {node.key.to_user_string() for node in graph.asset_nodes if node.pools == {"gpu"}}
    on_device = {"corpus_embeddings", "retrieved_set", "control_set", "customized_checkpoint", "elevater_results"}
    assert pools == on_device | {"benchmark_features", "benchmark_results"}


def test_method_is_evaluated_from_its_own_checkpoint_and_the_base_from_none() -> None:
    assert upstream(elevater_results, "customized_checkpoint", partition_of("shapes", "base")) == set()
    for method in TRAINED_METHODS:
        key = partition_of("shapes", method)
        assert upstream(elevater_results, "customized_checkpoint", key) == {key}


def test_checks_block_except_those_that_compare() -> None:
    checks = {key.name: graph.get(key).blocking for key in graph.asset_check_keys}
    assert sorted(name for name, blocking in checks.items() if not blocking) == [
        "accuracy_is_at_least_base",
        "benchmark_mean_is_at_least_base",
        "champion_is_in_no_doubt",
        "checkpoints_are_up_to_date",
        "gain_is_not_shared_by_the_control",
        "pairs_are_up_to_date",
        "training_pairs_hold_no_test_image",
    ]
    assert len(checks) == 17


def test_resources_can_be_overridden() -> None:
    other = build_defs(project=ProjectResource(config_path="elsewhere.yaml"))
    with dg.build_resources({"project": other.resources["project"]}) as resources:
        assert resources.project.config_path == "elsewhere.yaml"


@pytest.mark.parametrize(  # FAULTS 42
    "config", [{"project": {"config_path": "/evil.yaml"}}, {"tracking": {"tracking_uri": "http://evil.example"}}]
)
def test_a_run_cannot_choose_its_project_or_where_it_logs(config: dict[str, dict[str, str]]) -> None:
    job = defs.resolve_implicit_global_asset_job_def()
    dg.validate_run_config(job, {})
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(job, {"resources": {name: {"config": fields} for name, fields in config.items()}})


@pytest.mark.parametrize("name", ["..", "a/b", "x,y", "Animals", "two words", "größe", "", "a" * 64])  # FAULTS 23
def test_partition_that_is_no_slug_is_refused_before_anything_is_read(name: str) -> None:
    with pytest.raises(dg.Failure, match="is not a domain") as failure:
        require_slug(name)
    assert failure.value.allow_retries is False


def test_checkpoint_is_partitioned_by_domain_and_trained_method() -> None:
    assert customized_checkpoint.partitions_def == training_partitions


@pytest.mark.parametrize(
    "path", [ASSETS / f"{name}.py" for name in ("corpus", "domains", "evaluation", "promotion", "benchmark")], ids=str
)
def test_bodies_of_assets_are_short(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            assert node.body[-1].end_lineno - node.body[1].lineno < MAX_BODY_LINES
