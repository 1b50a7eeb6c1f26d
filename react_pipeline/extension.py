"""Extensions: what a package may add to the pipeline, and how such packages are loaded.

An extension is a class named by an entry point of the group `react_pipeline.extensions`. The core
brings its own stages, methods and kinds in the same way (`pipeline.Core`), and so do the extensions
that ship with the package (`react_pipeline/extensions/`). An optional part of this package that no
other package can replace is no extension: the core imports it where it is used.

Does not belong here: what any of these things is. Every method imports what it returns when it is
asked, so that loading extensions loads nothing heavy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.metadata import EntryPoint, distributions
from typing import TYPE_CHECKING, TypeVar

from react_pipeline.store import InputError, ReactError

if TYPE_CHECKING:
    import typer

    from react_pipeline.evaluation import Metric
    from react_pipeline.project import Project
    from react_pipeline.settings import CorpusConfig, EvaluationSetConfig, Method, Section
    from react_pipeline.stage import Stage


GROUP = "react_pipeline.extensions"
CORE = EntryPoint("core", "react_pipeline.pipeline:Core", GROUP)

Answer = TypeVar("Answer")
Row = TypeVar("Row")


class LazyTable(Mapping[str, Row]):
    """Rows by name, read from the extensions when they are first asked for."""

    def __init__(self, read: Callable[[], Mapping[str, Row]]) -> None:
        """`read` remembers its answer."""
        self._read = read

    def __getitem__(self, name: str) -> Row:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class Extension:
    """What one package adds. Override what it brings; the rest stays empty."""

    def stages(self) -> Iterable[Stage]:
        """Return rows of the table of stages, in the order of the data."""
        return ()

    def methods(self) -> Iterable[Method]:
        """Return ways to customize a model; each gets a control on random pairs."""
        return ()

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Return kinds of corpus."""
        return ()

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Return kinds of labelled images."""
        return ()

    def metrics(self) -> Iterable[Metric]:
        """Return metrics of classification; results are measured again when one comes or goes."""
        return ()

    def sections(self) -> Mapping[str, type[Section]]:
        """Return sections of `pipeline.yaml` by name; their paths are relative to that file."""
        return {}

    def test_digests(
        self, project: Project, slug: str
    ) -> Mapping[str, Callable[[], frozenset[str]]]:
        """Return sets of images that must not be trained on, by `<extension>/<set>`.

        The names are part of the identity of pairs. Each function returns the SHA-256 of the files
        of its images; none for a set that is not there.
        """
        return {}

    def add_commands(self, app: typer.Typer) -> None:
        """Add commands to the command line."""

    def declare_assets(self) -> None:
        """Declare checks of assets and sensors (`assets.declared`), or import the module that
        declares them.
        """


@cache
def extensions() -> Mapping[str, Extension]:
    """Return every installed extension by name: the core first, then by name.

    Raises:
        InputError: Naming an extension of another package that cannot be loaded.
    """
    points = {CORE.name: CORE}
    # Of every distribution: `entry_points()` would ask an older one of the same name on the path.
    declared = [point for one in distributions() for point in one.entry_points.select(group=GROUP)]
    for point in sorted(declared, key=lambda point: point.name):
        if (other := points.setdefault(point.name, point)).value != point.value:
            raise InputError(
                f"two extensions are called {point.name} ({other.value}, {point.value}); "
                "uninstall one"
            )
    return {name: _load(point) for name, point in points.items()}


def _load(point: EntryPoint) -> Extension:
    with blame(f"extension {point.name}", point.value):
        extension = point.load()()
        if not isinstance(extension, Extension):
            raise TypeError(f"{point.value} is no react_pipeline.extension.Extension")
    return extension


def answers(ask: Callable[[Extension], Answer]) -> dict[str, Answer]:
    """Ask every extension, and return what each answers, by its name.

    Raises:
        InputError: Naming an extension of another package that raises.
    """
    collected = {}
    for name, extension in extensions().items():
        with blame(f"extension {name}", type(extension).__module__):
            collected[name] = ask(extension)
    return collected


def joined(ask: Callable[[Extension], Mapping[str, Answer]]) -> dict[str, Answer]:
    """Ask every extension, and return all rows of their answers.

    Raises:
        InputError: Naming an extension that raises, or brings a row that another one has.
    """
    rows: dict[str, Answer] = {}
    for name, added in answers(lambda extension: dict(ask(extension))).items():
        if taken := rows.keys() & added.keys():
            raise InputError(f"extension {name}: another one has {min(taken)!r} already")
        rows |= added
    return rows


@contextmanager
def blame(what: str, module: str) -> Iterator[None]:
    """Name what another package brought in the error that it raises; ours are raised as they are.

    Args:
        module: Name of the module that is called, or of an entry point's value.

    Raises:
        InputError: If code of another package raises an error that is no `ReactError`.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, ReactError) or module.startswith("react_pipeline."):
            raise
        raise InputError(
            f"{what}: {type(error).__name__}: {error}; correct it, or uninstall it"
        ) from error
