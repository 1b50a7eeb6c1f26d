"""Extensions: what a package may add to the pipeline, and how such packages are found.

An extension is a class named by an entry point of the group `react_pipeline.extensions`. The core
brings its own stages, methods and kinds of corpus in the same way (`pipeline.Core`), and so do the
extensions that ship with the package (`react_pipeline/extensions/`).

Does not belong here: what any of these things is. Every method imports what it returns when it is
asked, so that finding extensions loads nothing heavy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import typer

    from react_pipeline.clip import BuiltEncoder
    from react_pipeline.labelled import LabelledKind
    from react_pipeline.project import Project
    from react_pipeline.settings import CorpusConfig, Method, Section
    from react_pipeline.stage import Stage

logger = logging.getLogger(__name__)

GROUP = "react_pipeline.extensions"
CORE = EntryPoint("core", "react_pipeline.pipeline:Core", GROUP)

Brought = TypeVar("Brought")


class Extension:
    """What one package adds. Override what it brings; the rest stays empty."""

    def sections(self) -> Mapping[str, type[Section]]:
        """Sections of `pipeline.yaml`, by name; their paths are relative to that file."""
        return {}

    def stages(self) -> Iterable[Stage]:
        """Rows of the table of stages, in the order of the data."""
        return ()

    def methods(self) -> Iterable[Method]:
        """Ways to customize a model; each gets a control on random pairs."""
        return ()

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Kinds of corpus."""
        return ()

    def labelled_kinds(self) -> Iterable[LabelledKind]:
        """Kinds of labelled images."""
        return ()

    def encoders(self) -> Iterable[BuiltEncoder]:
        """Encoders that are built rather than loaded, for `encoder: {model: NAME}`."""
        return ()

    def declare_assets(self) -> None:
        """Import the modules that declare texts and checks of assets (`assets.declared`)."""

    def add_commands(self, app: typer.Typer) -> None:
        """Add commands to the command line."""

    def findings(self, project: Project) -> Iterable[tuple[str, str, str, str]]:
        """Lines of `doctor`: what, state (`ok`, `note` or `missing`), detail, remedy."""
        return ()

    def kept_out(self, project: Project, slug: str) -> Mapping[str, Any]:
        """Names of the test sets of `test_digests`, as part of the identity of pairs."""
        return {}

    def test_digests(self, project: Project, slug: str) -> Mapping[str, frozenset[str]]:
        """SHA-256 of images that must not be trained on, by `<extension>/<set>`."""
        return {}


@cache
def extensions() -> Mapping[str, Extension]:
    """Every extension that can be loaded, by name: the core first, then by name."""
    points = {point.name: point for point in entry_points(group=GROUP) if point.name != CORE.name}
    loaded = {CORE.name: CORE.load()()}
    for name in sorted(points):
        try:
            extension = points[name].load()()
            if not isinstance(extension, Extension):
                raise TypeError(f"{points[name].value} is no react_pipeline.extension.Extension")
        except Exception as error:  # noqa: BLE001 - whatever somebody's package raises
            _leave_out(name, error)
        else:
            loaded[name] = extension
    return loaded


_broken: dict[str, str] = {}


def broken_extensions() -> Mapping[str, str]:
    """Extensions that were left out so far, and why."""
    return _broken


def brought(ask: Callable[[Extension], Brought]) -> Iterator[tuple[str, Brought]]:
    """What each extension answers, by name; one that raises is named, and left out from then on.

    An error of the core is raised: without it there is no pipeline.
    """
    for name, extension in extensions().items():
        if name in _broken:
            continue
        try:
            answer = ask(extension)
        except Exception as error:
            if name == CORE.name or _is_ours(error):
                raise
            _leave_out(name, error)
        else:
            yield name, answer


def brought_by_name(ask: Callable[[Extension], Mapping[str, Brought]]) -> dict[str, Brought]:
    """What all extensions answer, joined; one that brings a name that is taken is left out."""
    joined: dict[str, Brought] = {}

    def add(extension: Extension) -> None:
        new = ask(extension)
        if taken := joined.keys() & new.keys():
            raise ValueError(f"`{min(taken)}` is there already")
        joined.update(new)

    for _ in brought(add):
        pass
    return joined


def _is_ours(error: Exception) -> bool:
    """Whether it is about the user's input or data rather than a fault of the extension."""
    from react_pipeline.store import ReactError

    return isinstance(error, ReactError)


def _leave_out(name: str, error: Exception) -> None:
    _broken[name] = f"{type(error).__name__}: {error}"
    logger.warning("the extension %s is left out: %s", name, _broken[name])
