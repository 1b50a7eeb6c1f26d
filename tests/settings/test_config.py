from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.extensions.plan import Machine
from react_pipeline.project.outside import seed_path
from react_pipeline.settings import EmbeddingConfig, EncoderConfig
from react_pipeline.settings.config import DomainConfig
from react_pipeline.settings.files import load_domain, load_pipeline
from react_pipeline.settings.training import CustomizationConfig, TrainingConfig
from react_pipeline.store.errors import ConfigError

DEMO: dict[str, Any] = {"corpus": {"kind": "demo"}, "encoder": {"model": "demo"}}


def write(path: Path, value: object) -> Path:
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def refused(folder: Path, **fields: object) -> ConfigError:
    with pytest.raises(ConfigError) as error:
        load_pipeline(write(folder / "pipeline.yaml", {**DEMO, **fields}))
    return error.value


def test_paths_are_relative_to_the_file_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, home = tmp_path / "here", tmp_path / "home"
    for folder in (here, home):
        folder.mkdir()
        (folder / "weights.pt").touch()
    monkeypatch.setenv("HOME", str(home))
    local = [
        "data/*.tar",
        "../../b/{0..3}.tar",
        "link/../c/*.tar",
        "~/d.tar",
        "~no-such-user/a.tar",
    ]
    urls = ["s3://bucket/~/*.tar", "https://host/{000..099}.tar"]
    raw = {
        "corpus": {"shards": [*local, *urls]},
        "encoder": {"model": "ViT-B-32", "pretrained": "weights.pt"},
        "retrieval_encoder": {"model": "ViT-B-32", "pretrained": "~/weights.pt"},
        "store": "store",
        "elevater": {"root": "~/elevater"},
    }
    config = load_pipeline(write(here / "pipeline.yaml", raw))
    assert config.store == here / "store"
    assert config.section(ElevaterConfig).root == home / "elevater"
    # `..` behind a folder, which may be a link, stays.
    shards = ("data/*.tar", "link/../c/*.tar", "~no-such-user/a.tar")
    first, linked, nobody = (str(here / name) for name in shards)
    above = str(tmp_path.parent / "b/{0..3}.tar")
    assert config.corpus.shards == (first, above, linked, str(home / "d.tar"), nobody, *urls)
    assert config.encoder.pretrained == str(here / "weights.pt")
    assert config.retrieves_with.pretrained == str(home / "weights.pt")
    assert config.tracking_uri == f"sqlite:///{here}/mlflow.db"
    raw["corpus"] = {"kind": "embeddings", "embeddings": "laion", "indices": "laion/faiss"}
    corpus = load_pipeline(write(here / "pipeline.yaml", raw)).corpus
    assert (corpus.embeddings, corpus.indices) == (here / "laion", here / "laion/faiss")
    domain = {
        "classes": [{"name": "cat", "seeds": ["~/cat.jpg", "seeds/cat.jpg"]}],
        "evaluation": {"name": "mine", "kind": "folder", "path": "../images"},
    }
    pets = load_domain(write(here / "pets.yaml", domain))
    assert pets.evaluation is not None and pets.evaluation.path == tmp_path / "images"
    seeds = [seed_path(here, seed) for seed in pets.classes[0].seeds]
    assert seeds == [home / "cat.jpg", here / "seeds" / "cat.jpg"]
    # Without a file it is where the program is.
    assert EncoderConfig(model="ViT-B-32", pretrained="weights.pt").pretrained == "weights.pt"


def test_a_configuration_reaches_another_process(tmp_path: Path) -> None:
    raw = {**DEMO, "elevater": {"root": "there"}, "store": "s3://bucket/prefix"}
    config = load_pipeline(write(tmp_path / "pipeline.yaml", raw))
    same = pickle.loads(pickle.dumps(config))  # noqa: S301 - our own
    assert same == config and same.section(ElevaterConfig).root == tmp_path / "there"
    assert same.store_url == "s3://bucket/prefix"


def test_every_problem_is_reported_at_once_with_file_and_field(tmp_path: Path) -> None:
    error = refused(
        tmp_path,
        corpus={"kind": "webdataset", "shards": [], "colour": 1},
        encoder={"model": "ViT-B-32"},
        customization={"defaults": {"steps": 0}, "methods": {"full": {"learning_rat": 1}}},
        device="tpu",
        elevater={"sots": 5},
    )
    assert {problem.file for problem in error.problems} == {tmp_path / "pipeline.yaml"}
    assert {problem.field for problem in error.problems} == {
        "corpus.shards",
        "corpus.colour",
        "encoder",
        "customization.defaults.steps",
        "customization.methods.full.learning_rat",
        "device",
        "elevater.sots",
    }
    assert "found 'tpu'" in str(error) and "did you mean shots or" in str(error)


HUSH = "hush-hush"
SET = "{name: a, kind: folder, path: b}"
BOXES = "{name: a, images: b, annotations: c}"


@pytest.mark.parametrize(
    ("text", "field", "token"),
    [
        ("corpus: {kind: urls}", "corpus.urls", "required"),
        ("corpus: {kind: webdatset}", "corpus", "did you mean webdataset?"),
        ("corpus: {kind: images, images: [images, images/../..]}", "corpus.images", "store"),
        ("corpus: {kind: demo, shards: [a.tar]}", "corpus.shards", "another `kind`"),
        (f"corpus: {{kind: urls, urls: ['s3://me:{HUSH}@host/a']}}", "corpus.urls", "local"),
        (
            "corpus: {kind: urls, urls: [a.parquet], caption_column: url}",
            "corpus",
            "name the same column",
        ),
        (
            f"corpus: {{shards: [a.tar], storage: {{secret: {HUSH}}}}}",
            "corpus.storage",
            "unknown field",
        ),
        ("encoder: {model: demo, pretrained: openai}", "encoder", "`pretrained`"),
        ("encoder: {model: 'hf-hub:a/b', pretrained: a}", "encoder", "its own weights"),
        ("encoder: demo", "encoder", "EncoderConfig"),
        ("dense: {own: [{name: a, images: i, labels: l}]}", "dense.own.0", "give either"),
        (f"dense: {{own: [{BOXES}, {BOXES}]}}", "dense", "twice"),
        ("elevater: {shots: [5, 5]}", "elevater.shots", "twice"),
        ("guards: {sets: [a]}", "guards.sets.0", "dictionary"),
        (f"guards: {{sets: [{SET}, {SET}]}}", "guards", "one `name`"),
        ("distributor: {master: 'spark://head:7077'}", "distributor", "add `kind: spark`"),
        ("distributor: {conf: {spark.master: yarn}}", "distributor.conf", "is `master`"),
        ("distributor: {conf: {executor.memory: 1g}}", "distributor.conf", "`spark.`"),
        (f"distributor: {{conf: {{spark.s3.secret: {HUSH}}}}}", "distributor.conf", "a secret"),
        (f"store: s3://me:{HUSH}@host", "store", "no password"),
        (
            "{embedding: {encode: captions}, corpus: {shards: [a.tar]}}",
            "",
            "`embedding.encode: captions`",
        ),
        (f"corpus: {{shards: ['https://me:{HUSH}@host/a.tar']}}", "corpus.shards", "only local"),
        (
            "corpus: {shards: ['https://host/{00000..99999999}.tar']}",
            "corpus.shards",
            "more than",
        ),
        ("variants: {full: {method: full}}", "variants", "'full' already"),
        ("variants: {a-seed2: {method: full}}", "variants", "'a-seed2'"),
        ("variants: {a: {method: fulll}}", "variants.a.method", "did you mean full?"),
        (
            "variants: {a: {method: full, learning_rat: 1}}",
            "variants.a.learning_rat",
            "mean learning_rate or",
        ),
        ("seeds: [1, 0, 1]", "seeds", "1 listed more than once"),
        ("methods: [base, a]", "methods", "'a' is not"),
        ("promotion: {methods: [a]}", "promotion", "'a' is not"),
        ("owners: [ann]", "owners.0", "pattern"),
        ("distributor: {kind: spark, master: 'http://x'}", "distributor.master", "pattern"),
        (
            "customization: {defaults: {warmup_steps: 1.5}}",
            "customization.defaults.warmup_steps",
            "less than 1",
        ),
    ],
)
def test_a_wrong_field_is_named_and_a_secret_is_not_repeated(
    tmp_path: Path, text: str, field: str, token: str
) -> None:
    (problem,) = refused(tmp_path, **yaml.safe_load(text)).problems
    assert problem.field == field and token in problem.message and HUSH not in problem.message


def test_the_last_of_steps_and_epochs_wins_and_both_fail(tmp_path: Path) -> None:
    of_pipeline = CustomizationConfig.model_validate(
        {"defaults": {"epochs": 2}, "methods": {"full": {"steps": 7}}}
    )
    epochs = [of_pipeline.resolve(name).epochs for name in ("gated-image", "linear-head", "full")]
    assert epochs == [2, 2, None] and of_pipeline.resolve("full").steps == 7
    domain = TrainingConfig.model_validate({"epochs": 3})
    assert of_pipeline.resolve("full", domain).epochs == 3
    nothing = of_pipeline.resolve("full", TrainingConfig.model_validate({"epochs": None}))
    assert (nothing.steps, nothing.epochs) == (7, None)
    both = {"epochs": 2, "steps": 5}
    with pytest.raises(ConfigError, match=r"pets\.yaml:\d: customization: .*`epochs`"):
        load_domain(write(tmp_path / "pets.yaml", {"classes": ["cat"], "customization": both}))
    with pytest.raises(ValidationError, match="methods.full"):
        CustomizationConfig.model_validate({"methods": {"full": both}})


@pytest.mark.parametrize(
    ("classes", "token"),
    [
        ("[crane, crane]", "`id`"),
        ("[{id: bird, name: crane}, crane]", "`id`"),
        ("[{id: bird, name: crane}, {id: Bird, name: crane}]", "'bird'"),
        ("[{id: robin, name: crane}, robin]", "'robin'"),
        (
            "[{id: bird, name: crane}, {id: machine, name: hoist, synonyms: [crane]}]",
            "'crane'",
        ),
        ("[{id: bird, name: crane, synonyms: [Crane]}]", "'Crane'"),
    ],
)
def test_classes_of_one_name_have_ids_that_differ(classes: str, token: str) -> None:
    ours = [
        {"id": "crane (bird)", "name": "crane"},
        {"id": "crane (machine)", "name": "crane", "synonyms": ["hoist"]},
    ]
    domain = DomainConfig.model_validate({"slug": "cranes", "classes": [*ours, "robin"]})
    assert domain.class_names == ["crane (bird)", "crane (machine)", "robin"]
    assert domain.prompt_names == ["crane", "crane", "robin"]
    with pytest.raises(ValidationError, match=token):
        DomainConfig.model_validate({"slug": "cranes", "classes": yaml.safe_load(classes)})


@pytest.mark.parametrize(
    ("text", "field", "token"),
    [
        ("classes: robin", "classes", "list (found 'robin')"),
        ('classes: [a, ""]', "classes.1", "at least 1 character"),
        ("classes: [a, b]\ntemplates: []", "templates", "at least 1 item"),
        ("classes: [cat, {name: dog, synonyms: [Cat]}]", "classes", "'cat' occurs twice"),
        ("classes: [a, b]\ntemplates: [a photo]", "templates.0", "needs {} exactly once"),
        ("classes: [a, b]\ntemplates: ['{} and {}']", "templates.0", "exactly once"),
        ("classes:", "classes", "found nothing"),
        ('classes: [wren, "\\u200b\\u2060"]', "classes.1", "nothing that can be seen"),
        ('classes: [wren, "a\\u202eb"]', "classes.1", "control"),
        ('classes: [wren, "wr\\u200ben"]', "classes", "occurs twice"),
        ("classes: [wren, '=1+2']", "classes.1", "formula"),
        ('classes: [wren, "-2|cmd!A1"]', "classes.1", "formula"),
        ("classes: [a, b]\ntemplates: imagnet", "templates", "'imagenet' or 'simple' (found"),
        ("classes: [a, b]\nk_per_prompt: 5", "k_per_prompt", "another section"),
        (
            "classes: [a, b]\nretrieval: {k_per_promt: 5}",
            "retrieval.k_per_promt",
            "mean k_per_prompt?",
        ),
        (
            "classes: [a, b]\nretrieval: {k_per_prompt: yes}",
            "retrieval.k_per_prompt",
            "integer, unable to parse string as an integer (found 'yes')",
        ),
        (
            "classes: [a, b]\nevaluation: {name: a, kind: foldr, path: b}",
            "evaluation",
            "did you mean folder?",
        ),
        (
            "classes: [a, b]\nretrieval: {min_similarity: {t2t: .nan}}",
            "retrieval.min_similarity.t2t",
            "valid number",
        ),
        (
            "classes: [a, b]\nclasses: [c, d]",
            "",
            "`classes` is repeated",
        ),
        ("classes:\n- a\n- name: b\n  id: c\n  name: d", "", "`name` is repeated"),
    ],
)
def test_one_line_says_the_field_its_line_and_what_to_write(
    tmp_path: Path, text: str, field: str, token: str
) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_domain(path)
    (line,) = str(error.value).splitlines()
    place = f"{path}:{len(text.splitlines())}: "
    assert line.startswith(place + (field and f"{field}: ")) and token in line


@pytest.mark.parametrize("name", ["no", "007", "1e3", "2024-01-01"])
def test_a_name_is_what_is_written(tmp_path: Path, name: str) -> None:
    path = tmp_path / "birds.yaml"
    path.write_text(f"classes: [wren, {name}, {{name: '{name} b'}}]\ntitle: {name}\n")
    domain = load_domain(path)
    assert domain.class_names == ["wren", name, f"{name} b"] and domain.title == name


@pytest.mark.parametrize(
    ("cores", "processes", "count"), [(1, 1, 1), (16, 1, 15), (16, 2, 7), (16, 64, 1)]
)
def test_one_of_the_usable_cores_is_left_to_compute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, count: int
) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: cores)
    assert Machine.here(tmp_path).cores == cores
    assert EmbeddingConfig().worker_count == max(cores - 1, 1)
    assert TrainingConfig(processes=processes).worker_count == count
    assert TrainingConfig(processes=processes, workers=3).worker_count == 3
    assert TrainingConfig(workers=0).worker_count == EmbeddingConfig(workers=0).worker_count == 0
