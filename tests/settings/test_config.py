from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.project.project import Project
from react_pipeline.settings.config import DomainConfig
from react_pipeline.settings.files import load_domain, load_pipeline
from react_pipeline.settings.training import CustomizationConfig, TrainingConfig, TrainingOverrides
from react_pipeline.store.errors import ConfigError


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").touch()
    raw = {
        "corpus": {"shards": ["data/*.tar", "../../b/*.tar", "link/../c/*.tar"]},
        "encoder": {"model": "ViT-B-32", "pretrained": "weights.pt"},
        "store": "here",
    }
    config = load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    assert config.store == tmp_path / "here"
    # `..` behind a folder, which may be a link, stays.
    shards = (tmp_path / "data", tmp_path.parent.parent / "b", tmp_path / "link/../c")
    assert config.corpus.shards == tuple(str(folder / "*.tar") for folder in shards)
    assert config.encoder.pretrained == str(tmp_path / "weights.pt")
    assert config.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    write(
        tmp_path / "pets.yaml",
        {"classes": ["cat"], "evaluation": {"name": "mine", "kind": "folder", "path": "../images"}},
    )
    evaluation = load_domain(tmp_path / "pets.yaml").evaluation
    assert evaluation is not None
    assert str(evaluation.path) == str(tmp_path.parent / "images")


def test_one_text_is_a_list_of_one_place(tmp_path: Path) -> None:
    raw = {"corpus": {"shards": "data/*.tar"}, "encoder": {"model": "demo"}}
    assert load_pipeline(write(tmp_path / "pipeline.yaml", raw)).corpus.shards == (
        str(tmp_path / "data/*.tar"),
    )


def test_tilde_is_the_home_directory_in_every_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    (home / "weights.pt").touch()
    monkeypatch.setenv("HOME", str(home))
    raw = {
        "corpus": {"shards": ["~/data/*.tar", "~nobody-is-called-so/a.tar", "s3://bucket/~a.tar"]},
        "encoder": {"model": "ViT-B-32", "pretrained": "~/weights.pt"},
        "store": "~/store",
        "elevater": {"root": "~/elevater"},
    }
    config = load_pipeline(write(here / "pipeline.yaml", raw))
    assert (config.store, config.section(ElevaterConfig).root) == (
        home / "store",
        home / "elevater",
    )
    assert config.encoder.pretrained == str(home / "weights.pt")
    assert config.corpus.shards == (
        str(home / "data/*.tar"),
        str(here / "~nobody-is-called-so/a.tar"),
        "s3://bucket/~a.tar",
    )
    domain = {"classes": [{"name": "cat", "seeds": ["~/cat.jpg", "seeds/cat.jpg"]}]}
    (entry,) = load_domain(write(here / "pets.yaml", domain)).classes
    assert entry.seeds == (home / "cat.jpg", Path("seeds/cat.jpg"))


def test_every_problem_is_reported_at_once_with_file_and_field(tmp_path: Path) -> None:
    raw = {
        "corpus": {"kind": "webdataset", "shards": [], "colour": 1},
        "encoder": {"model": "ViT-B-32"},
        "customization": {"defaults": {"steps": 0}, "methods": {"full": {"learning_rat": 1}}},
        "device": "tpu",
    }
    path = write(tmp_path / "pipeline.yaml", raw)
    with pytest.raises(ConfigError) as error:
        load_pipeline(path)
    reported = str(error.value)
    assert all(line.startswith(f"{path}:") for line in reported.splitlines())
    for field in (
        "corpus.colour",
        "encoder",
        "customization.defaults.steps",
        "customization.methods.full.learning_rat",
    ):
        assert f": {field}: " in reported
    assert "found 'tpu'" in reported


@pytest.mark.parametrize(
    ("shard", "reported"),
    [
        ("pipe:cat data.tar", "only local paths and"),
        ("file:data.tar", "only local paths and"),
        ("ftp://host/data.tar", "only local paths and"),
        ("simplecache::s3://bucket/data.tar", "only local paths and"),
        ("https://me:hush@host/data.tar", "only local paths and"),
        ("https://host/data.tar?X-Amz-Signature=1234", "only local paths and"),
        ("https://host/{00000..99999999}.tar", "more than 1,000,000 files"),
        ("s3://bucket", "only local paths and"),
        ("s3://*/data.tar", "only local paths and"),
    ],
)
def test_commands_chains_and_secrets_are_no_shards(
    tmp_path: Path, shard: str, reported: str
) -> None:  # FAULTS 10
    raw = {"corpus": {"shards": [shard]}, "encoder": {"model": "demo"}}
    with pytest.raises(ConfigError, match="corpus.shards") as error:
        load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    assert reported in str(error.value)
    assert "hush" not in str(error.value) and "1234" not in str(error.value)


@pytest.mark.parametrize("folder", [".", "images/../.."])
def test_a_folder_of_images_that_holds_the_store_is_refused(tmp_path: Path, folder: str) -> None:
    raw = {"corpus": {"kind": "images", "images": ["images", folder]}, "encoder": {"model": "demo"}}
    with pytest.raises(ConfigError, match="holds the store") as caught:
        load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    assert [problem.field for problem in caught.value.problems] == ["corpus.images"]


def test_urls_stay_and_other_places_of_a_corpus_are_absolute(
    tmp_path: Path,
) -> None:
    shards = ["s3://bucket/data/*.tar", "https://host/{000..099}.tar", "data/{0..3}.tar"]
    raw = {"corpus": {"shards": shards}, "encoder": {"model": "demo"}}
    corpus = load_pipeline(write(tmp_path / "pipeline.yaml", raw)).corpus
    assert corpus.shards == (*shards[:2], str(tmp_path / "data/{0..3}.tar"))
    raw["corpus"] = {"kind": "embeddings", "embeddings": "laion", "indices": "laion/faiss"}
    corpus = load_pipeline(write(tmp_path / "pipeline.yaml", raw)).corpus
    assert (corpus.embeddings, corpus.indices) == (tmp_path / "laion", tmp_path / "laion/faiss")


@pytest.mark.parametrize(
    ("corpus", "reported"),
    [
        ({"kind": "webdataset"}, "corpus.shards: Field required"),
        ({"kind": "urls"}, "corpus.urls: Field required"),
        ({"kind": "embeddings"}, "corpus.embeddings: Field required"),
        ({"kind": "webdatset", "shards": ["a.tar"]}, "did you mean webdataset?"),
        (["a.tar"], "corpus: should be a valid mapping"),
        ({"kind": "demo", "shards": ["a.tar"]}, "corpus.shards: unknown field here"),
        (
            {"kind": "urls", "urls": ["a.parquet"], "shards": ["a.tar"]},
            "corpus.shards: unknown field here",
        ),
        (
            {"kind": "webdataset", "shards": ["a.tar"], "keys": "by_folder"},
            "`keys` was removed",
        ),
        ({"kind": "urls", "urls": ["https://host/a.parquet"]}, "local paths only"),
        (
            {"kind": "urls", "urls": ["s3://me:hush-hush@host/a.parquet"]},
            "…@host/a.parquet': tables and folders",
        ),
        ({"kind": "urls", "urls": ["a.parquet"], "caption_column": "url"}, "name the same column"),
        ({"shards": ["a.tar"], "storage": {"secret": "hush-hush"}}, "corpus.storage.secret"),
        (
            {"shards": ["a.tar"], "storage": {"endpoint_url": "http://me:hush-hush@host"}},
            "corpus.storage.endpoint_url",
        ),
        (
            {"shards": ["a.tar"], "storage": {"endpoint_url": "https://host/?hush-hush"}},
            "corpus.storage.endpoint_url",
        ),
    ],
)
def test_each_kind_of_corpus_names_required_and_unused_fields(
    tmp_path: Path, corpus: dict[str, object], reported: str
) -> None:
    raw = {"corpus": corpus, "encoder": {"model": "demo"}}
    with pytest.raises(ConfigError) as error:
        load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    assert reported in str(error.value)
    assert "hush-hush" not in str(error.value)


@pytest.mark.parametrize(
    "given",
    [
        {"pretrained": "openai"},
        {"quick_gelu": True},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ],
)
def test_the_demo_model_takes_no_weights_of_others(
    tmp_path: Path, given: dict[str, object]
) -> None:
    raw = {"corpus": {"kind": "demo"}, "encoder": {"model": "demo", **given}}
    with pytest.raises(
        ConfigError, match=", ".join(f"`{name}`" for name in given) + " would do nothing"
    ):
        load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    raw["encoder"] = {"model": "demo", "pretrained": None}
    assert load_pipeline(write(tmp_path / "pipeline.yaml", raw)).encoder.model == "demo"


def test_training_joins_method_defaults_pipeline_and_domain(tmp_path: Path) -> None:
    raw = {
        "corpus": {"kind": "demo"},
        "encoder": {"model": "demo"},
        "customization": {"defaults": {"steps": 7}, "methods": {"locked-text": {"batch_size": 5}}},
    }
    customization = load_pipeline(write(tmp_path / "pipeline.yaml", raw)).customization
    domain = load_domain(
        write(tmp_path / "pets.yaml", {"classes": ["cat"], "customization": {"seed": 3}})
    )
    training = customization.resolve("locked-text-control", domain.customization)
    assert (training.steps, training.batch_size, training.seed, training.learning_rate) == (
        7,
        5,
        3,
        5e-5,
    )
    assert customization.resolve("gated-image").learning_rate == TrainingConfig().learning_rate


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"kind": "local", "master": "local[2]"}, "do nothing for kind `local`"),
        ({"kind": "spark", "master": "http://x"}, "distributor.master"),
        ({"kind": "spark", "conf": {"executor.memory": "1g"}}, "begin with `spark.`"),
        ({"kind": "spark", "conf": {"spark.hadoop.fs.s3a.secret.key": "x"}}, "looks like a secret"),
        ({"kind": "spark", "conf": {"spark.master": "yarn"}}, "use `master`"),
    ],
)
def test_wrong_distributors_are_refused(
    make_project: Callable[..., Project], section: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_project(distributor=section)


def test_the_last_of_steps_and_epochs_wins_and_both_fail(tmp_path: Path) -> None:
    of_pipeline = CustomizationConfig.model_validate(
        {"defaults": {"epochs": 2}, "methods": {"full": {"steps": 7}}}
    )
    assert [
        of_pipeline.resolve(method).epochs for method in ("gated-image", "linear-head", "full")
    ] == [2, 2, None]
    assert of_pipeline.resolve("full").steps == 7
    domain = TrainingOverrides.model_validate({"epochs": 3})
    assert of_pipeline.resolve("full", domain).epochs == 3
    nothing = TrainingOverrides.model_validate({"epochs": None})
    assert (
        of_pipeline.resolve("full", nothing).steps,
        of_pipeline.resolve("full", nothing).epochs,
    ) == (7, None)
    both = {"epochs": 2, "steps": 5}
    with pytest.raises(ConfigError, match=r"pets\.yaml:\d: customization: .*`epochs`"):
        load_domain(write(tmp_path / "pets.yaml", {"classes": ["cat"], "customization": both}))
    for given, field in (
        ({"defaults": both}, "defaults"),
        ({"methods": {"full": both}}, "methods.full"),
    ):
        with pytest.raises(ValidationError, match=field):
            CustomizationConfig.model_validate(given)


@pytest.mark.parametrize("share", [-1, 1.5, "half"])
def test_warm_up_is_a_count_or_a_share(share: object) -> None:
    assert (
        CustomizationConfig.model_validate({"defaults": {"warmup_steps": 0.1}})
        .resolve("full")
        .warmup_steps
        == 0.1
    )
    with pytest.raises(ValidationError, match="warmup_steps"):
        CustomizationConfig.model_validate({"defaults": {"warmup_steps": share}})


@pytest.mark.parametrize(
    ("classes", "token"),
    [
        (["crane", "crane"], "`id`"),
        ([{"id": "bird", "name": "crane"}, "crane"], "`id`"),
        ([{"id": "bird", "name": "crane"}, {"id": "Bird", "name": "crane"}], "'bird'"),
        ([{"id": "robin", "name": "crane"}, "robin"], "'robin'"),
        (
            [
                {"id": "bird", "name": "crane"},
                {"id": "machine", "name": "hoist", "synonyms": ["crane"]},
            ],
            "'crane'",
        ),
        ([{"id": "bird", "name": "crane", "synonyms": ["Crane"]}], "'Crane'"),
    ],
    ids=str,
)
def test_classes_of_one_name_have_ids_that_differ(classes: list[Any], token: str) -> None:
    ours = [
        {"id": "crane (bird)", "name": "crane"},
        {"id": "crane (machine)", "name": "crane", "synonyms": ["hoist"]},
    ]
    domain = DomainConfig.model_validate({"slug": "cranes", "classes": [*ours, "robin"]})
    assert domain.class_names == ["crane (bird)", "crane (machine)", "robin"]
    assert domain.prompt_names == ["crane", "crane", "robin"]
    with pytest.raises(ValidationError, match=token):
        DomainConfig.model_validate({"slug": "cranes", "classes": classes})


@pytest.mark.parametrize("slug", ["all", "corpus", "mean"])
def test_names_that_mean_something_else_are_no_domains(tmp_path: Path, slug: str) -> None:
    with pytest.raises(ConfigError, match="is reserved"):
        load_domain(write(tmp_path / f"{slug}.yaml", {"classes": ["cat"]}))
