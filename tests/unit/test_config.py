from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from react_pipeline.config_files import load_domain, load_domains, load_pipeline
from react_pipeline.errors import ConfigError
from react_pipeline.training_config import TrainingConfig


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    raw = {
        "corpus": {"shards": ["data/*.tar"]},
        "encoder": {"model": "ViT-B-32", "pretrained": "weights.pt"},
        "store": "here",
    }
    config = load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    assert config.store == tmp_path / "here"
    assert config.corpus.shards == (str(tmp_path / "data/*.tar"),)
    assert config.encoder.pretrained == str(tmp_path / "weights.pt")
    assert config.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    write(
        tmp_path / "pets.yaml",
        {"classes": ["cat"], "evaluation": {"name": "mine", "kind": "folder", "path": "images"}},
    )
    evaluation = load_domain(tmp_path / "pets.yaml").evaluation
    assert evaluation is not None
    assert evaluation.path == tmp_path / "images"


def test_every_problem_is_told_at_once_with_file_and_field(tmp_path: Path) -> None:
    raw = {
        "corpus": {"kind": "webdataset", "shards": [], "colour": 1},
        "encoder": {"model": "ViT-B-32"},
        "customization": {"defaults": {"steps": 0}, "methods": {"full": {"learning_rat": 1}}},
        "device": "tpu",
    }
    path = write(tmp_path / "pipeline.yaml", raw)
    with pytest.raises(ConfigError) as error:
        load_pipeline(path)
    told = str(error.value)
    assert all(line.startswith(f"{path}: ") for line in told.splitlines())
    for field in (
        "corpus.colour",
        "encoder",
        "customization.defaults.steps",
        "customization.methods.full.learning_rat",
    ):
        assert f": {field}: " in told
    assert "found 'tpu'" in told


@pytest.mark.parametrize("shard", ["pipe:cat data.tar", "http://host/data.tar", "file:data.tar"])
def test_commands_and_urls_are_no_shards(tmp_path: Path, shard: str) -> None:  # FAULTS 10
    raw = {"corpus": {"shards": [shard]}, "encoder": {"model": "demo"}}
    with pytest.raises(ConfigError, match="only local paths"):
        load_pipeline(write(tmp_path / "pipeline.yaml", raw))


def test_training_joins_method_defaults_pipeline_and_domain(tmp_path: Path) -> None:
    raw = {
        "corpus": {"kind": "demo"},
        "encoder": {"model": "demo"},
        "customization": {"defaults": {"steps": 7}, "methods": {"locked-text": {"batch_size": 5}}},
    }
    customization = load_pipeline(write(tmp_path / "pipeline.yaml", raw)).customization
    domain = load_domain(write(tmp_path / "pets.yaml", {"classes": ["cat"], "customization": {"seed": 3}}))
    training = customization.resolve("locked-text-control", domain.customization)
    assert (training.steps, training.batch_size, training.seed, training.learning_rate) == (7, 5, 3, 5e-5)
    assert customization.resolve("gated-image").learning_rate == TrainingConfig().learning_rate


def test_one_bad_domain_leaves_the_others(tmp_path: Path) -> None:
    write(tmp_path / "good.yaml", {"classes": ["cat", {"name": "dog", "synonyms": ["hound"]}]})
    write(tmp_path / "bad.yaml", {"classes": []})
    domains, problems = load_domains(tmp_path)
    assert list(domains) == ["good"]
    assert domains["good"].class_names == ["cat", "dog"]
    assert [problem.file.name for problem in problems] == ["bad.yaml"]


@pytest.mark.parametrize("slug", ["all", "corpus", "mean"])
def test_names_that_mean_something_else_are_no_domains(tmp_path: Path, slug: str) -> None:
    with pytest.raises(ConfigError, match="means something else"):
        load_domain(write(tmp_path / f"{slug}.yaml", {"classes": ["cat"]}))
