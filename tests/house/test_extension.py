"""What an extension answers, and what becomes of one that raises."""

from __future__ import annotations

import runpy
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from support.retrieval import configure

from react_pipeline import extension, stage
from react_pipeline.assets.definitions import build_defs
from react_pipeline.evaluation import metrics
from react_pipeline.extension import Extension
from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.lineage import fresh, resolve
from react_pipeline.project.project import Project
from react_pipeline.settings import config, corpus, methods, section
from react_pipeline.stage import STAGES, Stage
from react_pipeline.store.errors import CorpusError, InputError


def keep_out(project: Project) -> Any:
    publish_evaluation_set(project, "shapes")
    configure(project, decontaminate="all")
    return resolve(project, "retrieved_set", "shapes")


DRIVES: Mapping[str, Callable[[Project], Any]] = {
    "stages": lambda _: stage._rows.__wrapped__(),
    "methods": lambda _: methods._methods.__wrapped__(),
    "corpus_kinds": lambda _: section.kinds_of_extensions.__wrapped__("corpus_kinds"),
    "labelled_kinds": lambda _: section.kinds_of_extensions.__wrapped__("labelled_kinds"),
    "metrics": lambda _: metrics._metrics.__wrapped__(),
    "sections": lambda _: config.sections_of_extensions.__wrapped__(),
    "test_digests": keep_out,
    "add_commands": lambda _: runpy.run_module("react_pipeline.commands.cli"),
    "declare_assets": lambda _: build_defs(),
}
"""Where each hook is asked."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    real = extension.extensions()
    tables = (stage.STAGES, methods.METHODS, metrics.METRICS, corpus.corpus_kinds())
    assert all(map(len, tables))  # as they are without

    def install(**others: Extension) -> None:
        monkeypatch.setattr(extension, "extensions", lambda: {**real, **others})

    return install


def fail(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize("hook", sorted(DRIVES))
def test_an_extension_that_raises_is_named_and_ends_what_asked(
    hook: str, indexed_project: Project, installed: Callable[..., None]
) -> None:
    names = {hook: fail, "__module__": "a_package"}
    installed(raising=type("Raising", (Extension,), names)())
    with pytest.raises(InputError, match=r"extension raising: ZeroDivisionError"):
        DRIVES[hook](indexed_project)


def test_a_part_of_this_package_that_raises_is_not_wrapped(installed: Callable[..., None]) -> None:
    names = {"stages": fail, "__module__": "react_pipeline.extensions.mine"}
    installed(raising=type("Raising", (Extension,), names)())
    with pytest.raises(ZeroDivisionError):
        stage._rows.__wrapped__()


def test_an_error_for_the_user_is_raised_as_it_is(installed: Callable[..., None]) -> None:
    say = Mock(side_effect=CorpusError("embed it again"))
    installed(talking=type("Talking", (Extension,), {"stages": say, "__module__": "mine"})())
    with pytest.raises(CorpusError, match="embed it again"):
        stage._rows.__wrapped__()


class Keeping(Extension):
    def test_digests(self, project: Any, slug: str) -> Any:
        return {"test": frozenset}


def test_no_answer_replaces_another(
    indexed_project: Project, installed: Callable[..., None]
) -> None:
    installed(keeping=Keeping(), other=Keeping())
    with pytest.raises(InputError, match="extension other"):
        keep_out(indexed_project)


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({"name": "my-count"}, "cannot name a stage"),
        ({"name": "domain_file"}, "cannot name a stage"),
        ({"parents_of_method": lambda _method: ("absent",)}, "no stage before it is called absent"),
        ({"name": "corpus"}, "already"),
    ],
)
def test_a_row_that_would_break_the_others_is_refused(
    fields: dict[str, Any], token: str, installed: Callable[..., None]
) -> None:
    row = {"name": "toy", "about": "a toy", "scope": "domain", "step": lambda _: None, **fields}
    installed(toys=type("Toys", (Extension,), {"stages": lambda _: (Stage(**row),)})())
    with pytest.raises(InputError, match=token):
        stage._rows.__wrapped__()


def test_nothing_is_fresh_of_a_method_that_is_gone(tiny_project: Project) -> None:
    with pytest.raises(InputError, match="install the extension"):
        fresh(tiny_project, "customized_checkpoint", "shapes/gone")


def distribution(**points: str) -> Any:
    entries = [EntryPoint(name, value, extension.GROUP) for name, value in points.items()]
    return SimpleNamespace(entry_points=EntryPoints(entries))


DENSE = "react_pipeline.extensions.dense.extension:Dense"


def test_an_older_distribution_of_same_name_hides_no_extension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = [distribution(), distribution(dense=DENSE), distribution(dense=DENSE)]
    monkeypatch.setattr(extension, "distributions", lambda: installed)
    assert set(extension.extensions.__wrapped__()) == {"core", "dense"}


@pytest.mark.parametrize(
    "points",
    [
        {"absent": "no_such_module:Extension"},
        {"strange": "json:JSONDecoder"},
        {"dense": "json:JSONDecoder"},
        {"core": "json:JSONDecoder"},
    ],
)
def test_what_cannot_be_loaded_is_named(
    points: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = [distribution(dense=DENSE), distribution(**points)]
    monkeypatch.setattr(extension, "distributions", lambda: installed)
    with pytest.raises(InputError, match=min(points)):
        extension.extensions.__wrapped__()


class Staging(Extension):
    def __init__(self, name: str, *parents: str) -> None:
        self.row = Stage(name, "", "domain", step=lambda _: None, parents=parents)  # type: ignore[arg-type,return-value]

    def stages(self) -> tuple[Stage, ...]:
        return (self.row,)


def test_a_stage_may_be_made_from_one_of_any_extension(installed: Callable[..., None]) -> None:
    installed(
        alpha=Staging("last", "middle"), beta=Staging("middle", "first"), gamma=Staging("first")
    )
    *before, first, middle, last = stage._rows.__wrapped__()
    assert {*before} == {*STAGES} and (first, middle, last) == ("first", "middle", "last")
