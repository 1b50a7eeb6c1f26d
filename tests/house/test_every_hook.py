"""Every hook of `Extension`, asked by the core where an extension raises in it: the core goes on as
without it, and where that would falsify a result the step stops and names the extension.
"""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from support.results import publish_results
from support.retrieval import configure
from torch import nn

from react_pipeline import extension, stage
from react_pipeline.assets.definitions import build_defs
from react_pipeline.assets.training import observed
from react_pipeline.commands.command_line import ask_server, missing_extra
from react_pipeline.commands.domains import validate_domains
from react_pipeline.corpus import servers
from react_pipeline.embedding.embed import embed_corpus
from react_pipeline.embedding.encoder import convert
from react_pipeline.evaluation import evidence, metrics
from react_pipeline.evaluation.comparison import compare
from react_pipeline.extension import Extension
from react_pipeline.extensions.doctor.diagnosis import diagnose
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.project.spread import _opened
from react_pipeline.retrieval import candidates, decontamination, examination
from react_pipeline.retrieval.retrieve import retrieve_pairs
from react_pipeline.settings import config, corpus, evaluation, methods
from react_pipeline.store.errors import CorpusError, InputError
from react_pipeline.tracking.log import Tracking
from react_pipeline.training.customization import customize
from react_pipeline.training.methods.model_method import find_probe
from react_pipeline.training.observer import TrainingObserver

HOOKS = {name for name in vars(Extension) if not name.startswith("_")}
ALONE: Any = SimpleNamespace(world=SimpleNamespace(size=1))


def retrieve(project: Project) -> Any:
    publish_evaluation_set(project, "shapes")
    return retrieve_pairs(project, "shapes").counts["pairs"]


def embed(project: Project) -> Any:
    shutil.rmtree(project.store.root / "corpus_embeddings")
    return embed_corpus(project).counts["rows"]


def compare_results(project: Project) -> Any:
    publish_results(project, "shapes", {"base": [True, False] * 4})
    return compare(project, "shapes").key


def follow(project: Project) -> Any:
    lines: list[str] = []
    with observed(project, "", lines.append) as observer:
        observer.started(Mock(config={"steps": 1}, key="shapes/full"), 0)
    return lines


def train_with_probe(project: Project) -> Any:
    probe = find_probe(ALONE, Mock())
    return probe and probe(Mock())


def launch(project: Project) -> Any:
    return ask_server(project, "http://127.0.0.1:9", "*", [], [])


def keep_out(project: Project) -> Any:
    publish_evaluation_set(project, "shapes")
    configure(project, decontaminate="all")
    return resolve(project, "retrieved_set", "shapes").config


def open_cluster(project: Project) -> Any:
    with pytest.raises(InputError, match="no extension brings 'local'"):
        _opened(project.config.distributor)


DRIVES: Mapping[str, Callable[[Project], Any]] = {
    "stores": lambda _: set(config.store_openers.__wrapped__()),
    "servers": lambda _: set(servers._servers.__wrapped__()),
    "earlier_shards": embed,
    "faster_towers": lambda _: isinstance(
        convert(nn.Identity(), nn.Identity(), [], "fp32"), nn.Identity
    ),
    "near_filter": lambda _: examination._near_filter(Mock(), 0.9),
    "modes": lambda _: candidates._search_of("lexical"),
    "describe_classes": retrieve,
    "domain_notes": lambda project: validate_domains(None, project.path),
    "before_retrieval": retrieve,
    "sections": lambda _: set(config.sections_of_extensions.__wrapped__()),
    "stages": lambda _: list(stage._rows.__wrapped__()),
    "methods": lambda _: list(methods._methods.__wrapped__()),
    "corpus_kinds": lambda _: list(corpus.corpus_kinds.__wrapped__()),
    "labelled_kinds": lambda _: list(evaluation.labelled_kinds.__wrapped__()),
    "encoders": lambda _: list(config.encoders.__wrapped__()),
    "clusters": open_cluster,
    "declare_assets": lambda _: len(list(build_defs().assets or ())),
    "add_commands": lambda _: len(
        runpy.run_module("react_pipeline.commands.cli")["app"].registered_commands
    ),
    "materialize_remotely": launch,
    "installs": lambda _: missing_extra(ModuleNotFoundError(name="no_such_module")),
    "findings": lambda project: diagnose(project.path) and None,
    "columns": lambda _: evidence.added_columns.__wrapped__(),
    "metrics": lambda _: list(metrics._metrics.__wrapped__()),
    "evidence": lambda project: evidence.evidence_of(project, "shapes"),
    "comparison_pages": compare_results,
    "training_observer": follow,
    "training_probe": train_with_probe,
    "kept_out": keep_out,
    "test_digests": lambda project: decontamination.test_digests(project, "shapes"),
}
"""Where the core asks."""

REQUIRED = {"describe_classes", "evidence", "comparison_pages", "kept_out", "test_digests"}
"""Hooks whose answers are part of an artifact, or keep test images out of it."""


def answering(**hooks: Callable[..., Any]) -> Extension:
    """An extension with these hooks."""
    return type("Answering", (Extension,), {name: hook for name, hook in hooks.items()})()


def fail(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


@contextmanager
def failing_at_its_end(*_: Any) -> Iterator[Any]:
    yield SimpleNamespace(started=fail, stepped=fail, failed=fail)
    fail()


GOOD = answering(
    near_filter=lambda *_: "the next filter",
    training_probe=lambda *_: lambda _: {"next": 1},
    materialize_remotely=lambda *_: True,
)
"""Is asked after one that raises."""


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    real = dict(extension.extensions())
    kinds = (corpus.corpus_kinds(), config.encoders())
    tables = (stage.STAGES, methods.METHODS, metrics.METRICS, *kinds)
    assert all(map(len, tables))  # as they are without

    def put(**first: Extension) -> None:
        core = {"core": real["core"]}
        monkeypatch.setattr(extension, "extensions", lambda: {**core, **first, **real})
        extension._broken.clear()

    monkeypatch.setattr(extension, "_broken", {})
    return put


@pytest.fixture
def project(indexed_project: Project, tracking: Tracking) -> Project:
    return indexed_project


def test_each_hook_is_known_here() -> None:
    assert set(DRIVES) == HOOKS


@pytest.mark.parametrize("hook", sorted(HOOKS - REQUIRED))
def test_one_that_raises_is_named_and_all_else_goes_on(
    hook: str, project: Project, install: Callable[..., None]
) -> None:
    install(raising=answering(**{hook: fail}), good=GOOD)
    answer = DRIVES[hook](project)
    assert "ZeroDivisionError" in extension.broken_extensions()["raising"]
    install(good=GOOD)
    assert DRIVES[hook](project) == answer


@pytest.mark.parametrize("hook", sorted(REQUIRED))
def test_a_result_that_would_lack_something_is_not_made(
    hook: str, project: Project, install: Callable[..., None]
) -> None:
    install(raising=answering(**{hook: fail}))
    with pytest.raises(InputError, match="extension raising"):
        DRIVES[hook](project)


def say(*_: Any, **__: Any) -> Any:
    raise CorpusError("embed it again")


@pytest.mark.parametrize("hook", ["before_retrieval", "describe_classes", "training_probe"])
def test_a_react_error_of_an_extension_is_the_error_of_the_step(
    hook: str, project: Project, install: Callable[..., None]
) -> None:
    install(telling=answering(**{hook: say}))
    with pytest.raises(CorpusError, match="embed it again"):
        DRIVES[hook](project)
    assert "telling" not in extension.broken_extensions()


@pytest.fixture
def ready(make_project: Callable[..., Project], _retrieved_store: Path) -> Project:
    """A project whose trainings are measured at each step."""
    training = {"steps": 4, "batch_size": 8, "warmup_steps": 1, "evaluate_every": 1}
    project = make_project(customization={"defaults": training})
    shutil.copytree(_retrieved_store, project.config.store)
    return project


def test_a_probe_that_raises_ends_no_training(ready: Project, install: Callable[..., None]) -> None:
    calls = []

    def probe(_: Any) -> dict[str, float]:
        calls.append(1)
        return {"mine": 1 / (2 - len(calls))}

    install(raising=answering(training_probe=lambda *_: probe))
    artifact = customize(ready, "shapes", "locked-image")
    lines = artifact.file("metrics.jsonl").read_text().splitlines()
    assert ["mine" in json.loads(line) for line in lines] == [True, False, False, False]
    assert len(calls) == 2
    assert "ZeroDivisionError" in extension.broken_extensions()["raising"]


def test_several_processes_measure_alike_or_stop(install: Callable[..., None]) -> None:
    install(raising=answering(training_probe=lambda *_: fail))
    two: Any = SimpleNamespace(world=SimpleNamespace(size=2))
    probe = find_probe(two, Mock())
    assert probe is not None
    with pytest.raises(InputError, match="extension raising"):
        probe(Mock())


def test_an_observer_that_raises_ends_no_training(
    ready: Project, install: Callable[..., None]
) -> None:
    install(raising=answering(training_observer=failing_at_its_end))
    with observed(ready, "", lambda _: None) as observer:
        artifact = customize(ready, "shapes", "locked-image", observer)
    assert artifact.counts["steps"] == 4
    assert "ZeroDivisionError" in extension.broken_extensions()["raising"]


class Swallowing(TrainingObserver):
    def __enter__(self) -> TrainingObserver:
        return self

    def __exit__(self, *_: object) -> bool:
        return True


@pytest.mark.parametrize("bring", [failing_at_its_end, lambda *_: Swallowing()])
def test_no_observer_changes_how_a_training_ends(
    bring: Callable[..., Any], tiny_project: Project, install: Callable[..., None]
) -> None:
    install(odd=answering(training_observer=bring))
    with (
        pytest.raises(KeyError, match="of the training"),
        observed(tiny_project, "", lambda _: None),
    ):
        raise KeyError("of the training")
