"""Fixtures that every test may use: a tiny real CLIP, drawings as a corpus, and projects made of
them.

Of the session, read by all workers; copy before you change them:

- `tiny_checkpoint`: a folder written by `react_pipeline.clip.save`: a CLIP of 2 vision layers,
  32 px, D = 32.
- `drawings`: a folder with `shards/0000[0-2].tar` (96 pairs) and
  `evaluation/{shapes,colours}/<class>/<n>.png`. `support.drawings` makes images, pairs and shards.
- `mlflow_database`: `mlflow.db`, MLflow's tables and nothing in them; migrating a fresh one takes
  seconds.
- `built`, `installed`: folders with the source distribution and its wheel, and with a fresh
  environment that has that wheel and the dependencies of this one.

Of a test:

- `make_project(corpus={...}, index={...}, ...)` makes a project in a fresh folder; the fields are
  joined over `PIPELINE`, section by section.
- `tiny_project`: `make_project()`; nothing is built yet; domains `shapes` and `colours`.
- `indexed_project`: the same with everything up to `faiss_index` in a store of its own.
- `retrieved_project`: the same with evaluation, retrieved and control sets of both domains too.
- `measured_project`: `make_project` with the methods `base` and `gated-image`, whose published
  results get 100 and 140 of 200 images of `shapes` right.
- `prepare(...)`: a project with these training fields in a fresh copy of what is retrieved.
- `tracking`: `Tracking` of `tiny_project`, over a copy of `mlflow_database`.
- `clip`: the model of `tiny_checkpoint`, which the test may change.
- `processor`: one whose seconds `plan` need not measure.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import venv
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event
from support.drawings import COLOURS, SHAPES, write_corpus, write_evaluation_folder

from react_pipeline.project.project import Project
from react_pipeline.store.bucket import Bucket
from react_pipeline.store.store import Store
from react_pipeline.tracking import log
from react_pipeline.tracking.log import Tracking

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from support.bucket import BucketServer

    from react_pipeline.clip import Clip

# Layers of 32 numbers gain nothing from threads, and threads that wait for each other on a busy
# machine take seconds. Set before torch is loaded; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A server of a test is slow on a busy machine, and not down.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


# No fsync here, in the store and in the databases of Dagster and MLflow: tests kill processes, not
# the machine. `store/test_durable.py` and `faults/harness` see to what is asked of the disk.
os.fsync = lambda _: None


@event.listens_for(Engine, "connect")
def leave_writing_to_the_system(connection: Any, _record: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA busy_timeout = 0")
        with suppress(sqlite3.OperationalError):  # a test holds it locked
            connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA busy_timeout = 5000")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let one worker run a module, whose fixtures are made once. The longest come first: groups of
    the tests' own, modules with tests of operations, then those with the most tests.
    """
    modules = Counter(item.path for item in items)
    long = {item.path for item in items if item.get_closest_marker("operations")}
    own = {item: item.get_closest_marker("xdist_group") is not None for item in items}
    items.sort(key=lambda item: (not own[item], item.path not in long, -modules[item.path]))
    for item in items:
        if not own[item]:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.split("::")[0]))


scripts: dict[str | None, ScriptDirectory] = {}
read_scripts = ScriptDirectory.from_config


def known_scripts(config: Config) -> ScriptDirectory:
    """Migrations of Dagster and MLflow, which each new database would load again."""
    place = config.get_main_option("script_location")
    if place not in scripts:
        scripts[place] = read_scripts(config)
    return scripts[place]


ScriptDirectory.from_config = known_scripts  # type: ignore[method-assign, assignment]


@pytest.fixture(autouse=True)
def _nothing_is_recent() -> Iterator[None]:
    """What a test computed reaches no other test of its process."""
    yield
    if model := sys.modules.get("react_pipeline.clip.model"):
        model.loaded_base.cache_clear()
        model._results.clear()


REPOSITORY = Path(__file__).parents[1]

PIPELINE: dict[str, Any] = {
    "project": "tiny",
    "store": "store",
    "device": "cpu",
    "corpus": {"kind": "webdataset"},
    "encoder": {},
    # fp32, so that no result depends on what the processor runs fastest.
    "embedding": {"batch_size": 32, "workers": 0, "precision": "fp32"},
    "index": {"recall_queries": 20},
    # To random towers many drawings look alike, so near duplicates are reported by their bytes
    # only.
    "retrieval": {
        "k_per_prompt": 10,
        "max_per_class": 12,
        "near_duplicate_similarity": 1.01,
        "shard_pairs": 20,
    },
    "customization": {
        "defaults": {
            "last_k_layers": 2,
            "steps": 4,
            "batch_size": 8,
            "warmup_steps": 1,
            "checkpoint_every": 2,
            "augmentation": "none",
            "precision": "fp32",
        }
    },
}
DOMAINS: dict[str, dict[str, Any]] = {
    "shapes": {
        "classes": [{"name": "circle", "synonyms": ["disc"]}, *SHAPES[1:]],
        "templates": ["a drawing of a {}", "a {} shape"],
    },
    "colours": {"classes": list(COLOURS), "templates": ["a {} drawing"]},
}


@pytest.fixture(scope="session", autouse=True)
def _figures_without_layout() -> None:
    """Laying out axes takes longer than drawing them, and hundreds of tests draw."""
    from matplotlib.figure import Figure

    make = Figure.__init__

    def quick(figure: Figure, *arguments: Any, layout: object = None, **options: Any) -> None:
        make(figure, *arguments, **options)

    Figure.__init__ = quick  # type: ignore[method-assign, assignment]


Share = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def share(tmp_path_factory: pytest.TempPathFactory) -> Share:
    """Gives a folder that the first worker of this run fills and the others read."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name: str, fill: Callable[[Path], object]) -> Path:
        with (base / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.fstat(lock.fileno()).st_size:  # not `tell`, which is as of the opening
                shutil.rmtree(base / name, ignore_errors=True)
                (base / name).mkdir()
                fill(base / name)
                lock.write("filled")
        return base / name

    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(share: Share) -> Path:
    return share("checkpoint", write_checkpoint)


def write_checkpoint(
    directory: Path,
    seed: int = 0,
    dimension: int = 32,
    width: int = 32,
    layers: int = 2,
    finish: Callable[[CLIP], object] = lambda _: None,
) -> Path:
    """A tiny CLIP with random weights."""
    import torch
    from open_clip.model import CLIP

    from react_pipeline.clip.model import from_parts, save

    model_cfg = {
        "embed_dim": dimension,
        "vision_cfg": {
            "image_size": 32,
            "layers": layers,
            "width": width,
            "head_width": width // 2,
            "patch_size": 16,
        },
        "text_cfg": {
            "context_length": 77,
            "vocab_size": 49408,
            "width": width,
            "heads": 2,
            "layers": 1,
        },
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIP(**model_cfg)
        # With the usual initialisation every input ends up at the same place.
        for name, parameter in model.named_parameters():
            if "positional" in name or name.endswith("class_embedding"):
                torch.nn.init.zeros_(parameter)
            elif parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.5)
    finish(model)
    save(
        from_parts(model, model_cfg, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, None),
        directory,
    )
    return directory


@pytest.fixture
def clip(tiny_checkpoint: Path) -> Clip:
    from react_pipeline.clip import load

    return load(tiny_checkpoint)


@pytest.fixture
def named(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model that open_clip knows as `tiny`."""
    import open_clip

    from react_pipeline.clip import read_config

    model_cfg, _ = read_config(tiny_checkpoint)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", model_cfg)
    return tiny_checkpoint


@pytest.fixture(scope="session")
def drawings(share: Share) -> Path:
    return share("drawings", write_drawings)


def write_drawings(directory: Path) -> None:
    write_corpus(directory / "shards")
    for slug, domain in DOMAINS.items():
        names = [entry if isinstance(entry, str) else entry["name"] for entry in domain["classes"]]
        write_evaluation_folder(directory / "evaluation" / slug, names)


@pytest.fixture
def make_project(
    tmp_path: Path, tiny_checkpoint: Path, drawings: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Project]]:
    def make(**sections: Any) -> Project:
        return write_project(tmp_path, tiny_checkpoint, drawings, **sections)

    monkeypatch.delenv("REACT_PIPELINE_CONFIG", raising=False)
    yield make


@pytest.fixture
def tiny_project(make_project: Callable[..., Project]) -> Project:
    return make_project()


@pytest.fixture(scope="session")
def _indexed_store(share: Share, tiny_checkpoint: Path, drawings: Path) -> Path:
    from react_pipeline.lineage import run

    def fill(directory: Path) -> None:
        project = write_project(directory, tiny_checkpoint, drawings)
        for stage in ("corpus", "base_checkpoint", "corpus_embeddings", "faiss_index"):
            run(project, stage, "all")

    return share("indexed", fill) / "store"


@pytest.fixture
def indexed_project(tiny_project: Project, _indexed_store: Path) -> Project:
    shutil.copytree(_indexed_store, tiny_project.config.store)
    return tiny_project


@pytest.fixture(scope="session")
def _retrieved_store(
    share: Share, tiny_checkpoint: Path, drawings: Path, _indexed_store: Path
) -> Path:
    from react_pipeline.lineage import run

    def fill(directory: Path) -> None:
        project = write_project(directory, tiny_checkpoint, drawings)
        shutil.copytree(_indexed_store, project.config.store)
        for slug in DOMAINS:
            for stage in ("evaluation_set", "retrieved_set", "control_set"):
                run(project, stage, slug)

    return share("retrieved", fill) / "store"


@pytest.fixture
def retrieved_project(tiny_project: Project, _retrieved_store: Path) -> Project:
    shutil.copytree(_retrieved_store, tiny_project.config.store)
    return tiny_project


@pytest.fixture
def measured_project(make_project: Callable[..., Project]) -> Project:
    from support.promotion import measure

    project = make_project(methods=["base", "gated-image"])
    measure(project, "base", 100)
    measure(project, "gated-image", 140)
    return project


@pytest.fixture
def prepare(make_project: Callable[..., Project], _retrieved_store: Path) -> Callable[..., Project]:
    from support.training import prepared

    return functools.partial(prepared, make_project, _retrieved_store)


@pytest.fixture(scope="session")
def mlflow_database(share: Share) -> Path:
    from mlflow import MlflowClient

    def fill(directory: Path) -> None:
        MlflowClient(f"sqlite:///{directory / 'mlflow.db'}").search_experiments()

    return share("mlflow", fill) / "mlflow.db"


@pytest.fixture
def tracking(mlflow_database: Path, tmp_path: Path, tiny_project: Project) -> Tracking:
    shutil.copy(mlflow_database, tmp_path)
    log._unreachable_until.clear()  # a server that another test met
    return Tracking(tiny_project)


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> None:
    from react_pipeline.extensions.plan import encoder_cost as module

    monkeypatch.setattr(module, "time_encoder", lambda _: (1e-3, 2e-2, 1e-2))


def write_project(directory: Path, checkpoint: Path, drawings: Path, **sections: Any) -> Project:
    """Write `pipeline.yaml` and `domains/` into `directory`; `sections` are joined over `PIPELINE`,
    field by field.
    """
    given: dict[str, Any] = {**PIPELINE, "encoder": {"pretrained": str(checkpoint)}}
    if sections.get("corpus", {}).get("kind", "webdataset") == "webdataset":
        given["corpus"] = {"kind": "webdataset", "shards": [str(drawings / "shards" / "*.tar")]}
    pipeline = {**given, **sections}
    for name, value in pipeline.items():
        if isinstance(value, dict):  # a copy, also of a section that stands for two
            pipeline[name] = {**given.get(name, {}), **value}
    # A test that gives its own training fields trains in fp32 too, unless it says otherwise.
    customization = pipeline["customization"]
    defaults = {"precision": "fp32", "workers": 0, **customization["defaults"]}
    pipeline["customization"] = {**customization, "defaults": defaults}
    (directory / "domains").mkdir(exist_ok=True)
    for slug, domain in DOMAINS.items():
        evaluation = {
            "name": f"drawn {slug}",
            "kind": "folder",
            "path": str(drawings / "evaluation" / slug),
        }
        (directory / "domains" / f"{slug}.yaml").write_text(
            yaml.safe_dump({**domain, "evaluation": evaluation})
        )
    path = directory / "pipeline.yaml"
    path.write_text(yaml.safe_dump(pipeline))
    return Project.load(path)


def pytest_collection_finish() -> None:
    """Spare the collector what modules hold: to go through it takes a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def _server() -> Iterator[BucketServer]:
    from support.bucket import BucketServer

    server = BucketServer()
    yield server
    server.server.shutdown()


@pytest.fixture
def server(_server: BucketServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[BucketServer]:
    """The server of `bucket`, which answers as it should again after the test."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    yield _server
    _server.spoil = lambda _: None


@pytest.fixture
def bucket(server: BucketServer, tmp_path: Path) -> Store:
    # No two tests share a prefix, by which clients and manifests are remembered.
    return Store(Bucket(f"s3://artifacts/{secrets.token_hex(8)}", tmp_path / "here"))


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind: a folder, and a bucket. A test of the folder's own files takes it by
    `FOLDER`.
    """
    if request.param == "folder":
        return Store(tmp_path / "store")
    return request.getfixturevalue("bucket")


@pytest.fixture(scope="session")
def built(share: Share) -> Path:
    """A folder with the source distribution, and the wheel that was built from it."""
    return share("built", build_distributions)


def build_distributions(folder: Path) -> None:
    # Of a copy: setuptools also packs what an earlier build here has listed.
    leftovers = shutil.ignore_patterns(
        ".*", "build", "dist", "*.egg-info", "storage", "history", "schedules"
    )
    sources = shutil.copytree(REPOSITORY, folder / "sources", symlinks=True, ignore=leftovers)
    command = [
        sys.executable,
        "-m",
        "build",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(sources),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder)


@pytest.fixture(scope="session")
def installed(share: Share, built: Path) -> Path:
    """A fresh environment with the wheel; its dependencies are those of the environment that runs
    the tests.
    """
    return share("environment", lambda folder: install(built, folder))


def install(built: Path, folder: Path) -> None:
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Links among these folders, such as an editable installation's, are not followed from here.
    (packages / "dependencies.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages"))
    )
    (wheel,) = built.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel)],
        check=True,
        capture_output=True,
    )
