"""What an extension answers, and what is done with one that raises."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from types import SimpleNamespace
from typing import Any

import pytest

from react_pipeline import extension, stage
from react_pipeline.extension import Extension, brought, required
from react_pipeline.lineage import fresh
from react_pipeline.project.project import Project
from react_pipeline.stage import STAGES, Stage
from react_pipeline.store.errors import InputError

BELOW = {"test": frozenset({"a"})}


class Raising(Extension):
    def test_digests(self, project: Any, slug: str) -> Any:
        raise KeyError("absent")


class Keeping(Extension):
    def test_digests(self, project: Any, slug: str) -> Any:
        return BELOW


def ask(one: Extension) -> Any:
    return one.test_digests(None, "shapes")  # type: ignore[arg-type]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(**extensions: Extension) -> None:
        monkeypatch.setattr(extension, "extensions", lambda: {"core": Extension(), **extensions})
        monkeypatch.setattr(extension, "_broken", {})

    return install


def test_one_that_raises_is_named_and_the_others_are_heard(installed: Callable[..., None]) -> None:
    installed(raising=Raising(), keeping=Keeping())
    assert dict(brought(ask)) == {"core": {}, "keeping": BELOW}
    assert "KeyError" in extension.broken_extensions()["raising"]


def test_what_protects_test_images_is_never_left_out(installed: Callable[..., None]) -> None:
    installed(keeping=Keeping(), raising=Raising())
    with pytest.raises(InputError, match="extension raising"):
        required(ask)


def test_no_answer_replaces_another(installed: Callable[..., None]) -> None:
    installed(keeping=Keeping(), other=Keeping())
    with pytest.raises(InputError, match="extension other"):
        required(ask)


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({"name": "my-count"}, "cannot name a stage"),
        ({"name": "domain_file"}, "cannot name a stage"),
        ({"parents_of_method": lambda _method: ("absent",)}, "no stage before it is called absent"),
    ],
)
def test_a_row_that_would_break_the_others_is_refused(fields: dict[str, Any], token: str) -> None:
    made = {"name": "toy", "about": "a toy", "scope": "domain", "step": lambda _: None}
    with pytest.raises(ValueError, match=token):
        stage._require_sound(Stage(**{**made, **fields}), STAGES)


def test_nothing_is_fresh_of_a_method_that_is_gone(tiny_project: Project) -> None:
    with pytest.raises(InputError, match="install the extension"):
        fresh(tiny_project, "customized_checkpoint", "shapes/gone")


def test_an_older_distribution_of_same_name_hides_no_extension(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    value = "react_pipeline.extensions.dense.extension:Dense"
    point = EntryPoint("dense", value, extension.GROUP)
    older = SimpleNamespace(entry_points=EntryPoints())
    newer = SimpleNamespace(entry_points=EntryPoints([point]))
    monkeypatch.setattr(extension, "distributions", lambda: [older, newer])
    assert set(extension.extensions.__wrapped__()) == {"core", "dense"}


class Staging(Extension):
    def __init__(self, name: str, *parents: str) -> None:
        self.row = Stage(name, "", "domain", step=lambda _: None, parents=parents)  # type: ignore[arg-type,return-value]

    def stages(self) -> tuple[Stage, ...]:
        return (self.row,)


def test_a_stage_may_be_made_from_one_of_any_extension(installed: Callable[..., None]) -> None:
    installed(
        alpha=Staging("last", "middle"),
        beta=Staging("middle", "first"),
        gamma=Staging("first"),
        odd=Staging("lost", "absent"),
        round_a=Staging("left", "right"),
        round_b=Staging("right", "left"),
    )
    assert list(stage._rows.__wrapped__()) == ["first", "middle", "last"]
    assert set(extension.broken_extensions()) == {"odd", "round_a", "round_b"}
    assert "absent" in extension.broken_extensions()["odd"]
