"""Extensions: what a package may add to the pipeline, and how such packages are found.

An extension is a class named by an entry point of the group `react_pipeline.extensions`. The core
brings its own stages, methods and kinds of corpus in the same way (`pipeline.Core`), and so do the
extensions that ship with the package (`react_pipeline/extensions/`).

Does not belong here: what any of these things is. Every method imports what it returns when it is
asked, so that finding extensions loads nothing heavy.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from react_pipeline.store import Artifact, InputError, ReactError, Store

if TYPE_CHECKING:
    import typer

    from react_pipeline.clip import BuiltEncoder, Clip
    from react_pipeline.corpus import Server
    from react_pipeline.embedding import Features, TakeOver
    from react_pipeline.evaluation import Column, Compared, Evidence, Metric
    from react_pipeline.project import Project
    from react_pipeline.retrieval import ClassNotes, ClassTable, NearFilter, ReadVectors, SearchMode
    from react_pipeline.settings import CorpusConfig, EvaluationSetConfig, Method, Section
    from react_pipeline.stage import Stage
    from react_pipeline.store import Inputs
    from react_pipeline.training import Customization, Probe, TrainingObserver

RunTasks = Callable[[Callable[[Any], Any], Sequence[Any], str], list[Any]]
"""Runs a function on items as tasks of a cluster, with a text of what they do (`project.spread`).
"""

OpenCluster = Callable[[Any], AbstractContextManager[RunTasks]]
"""Begins a session of a cluster, by a `DistributorConfig`, and ends it on leaving."""

SaveModel = Callable[[Path, Any], None]
"""Saves a `LoggedModel` of MLflow in a folder."""

logger = logging.getLogger(__name__)

GROUP = "react_pipeline.extensions"
CORE = EntryPoint("core", "react_pipeline.pipeline:Core", GROUP)

Brought = TypeVar("Brought")
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

    # Rows of tables, and a section of `pipeline.yaml`.

    def stages(self) -> Iterable[Stage]:
        """Rows of the table of stages, in the order of the data."""
        return ()

    def methods(self) -> Iterable[Method]:
        """Ways to customize a model; each gets a control on random pairs."""
        return ()

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Kinds of corpus."""
        return ()

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Kinds of labelled images."""
        return ()

    def encoders(self) -> Iterable[BuiltEncoder]:
        """Encoders that are built rather than loaded, for `encoder: {model: NAME}`."""
        return ()

    def sections(self) -> Mapping[str, type[Section]]:
        """Sections of `pipeline.yaml`, by name; their paths are relative to that file."""
        return {}

    def modes(self) -> Mapping[str, SearchMode]:
        """Modes of retrieval that search neither images nor captions by vectors."""
        return {}

    def metrics(self) -> Iterable[Metric]:
        """Metrics of classification; results are measured again when one comes or goes."""
        return ()

    def columns(self) -> Iterable[Column]:
        """Columns that its evidence adds to comparisons."""
        return ()

    # In Dagster and on the command line.

    def declare_assets(self) -> None:
        """Declare texts and checks of assets, and sensors (`assets.declared`), or import what
        does.
        """

    def add_commands(self, app: typer.Typer) -> None:
        """Add commands to the command line."""

    def materialize_remotely(self, url: str, *request: Any) -> bool | None:
        """Let the server at a URL build assets, and wait; returns whether all succeeded. None: this
        extension does not.

        `request` is a selection, domains, methods, the path of `pipeline.yaml`, and what is called
        with each line to show.
        """
        return None

    def findings(self, project: Project) -> Iterable[tuple[str, str, str, str]]:
        """Lines of `doctor`: what, state (`ok`, `note` or `missing`), detail, remedy."""
        return ()

    def installs(self) -> Mapping[str, str]:
        """The command line that installs a package which only this needs, by its module."""
        return {}

    def domain_notes(self, project: Project, slugs: Iterable[str]) -> Iterable[str]:
        """Notes on valid domain files, for `domains validate`."""
        return ()

    # Where shards are stored, and where tasks run.

    def servers(self) -> Mapping[str, Server]:
        """Servers of shards, by the scheme of their URLs."""
        return {}

    def clusters(self) -> Mapping[str, OpenCluster]:
        """What begins a session of a cluster, by `distributor.kind`."""
        return {}

    # Embedding and retrieval.

    def earlier_shards(self, store: Store, inputs: Inputs) -> Iterable[TakeOver]:
        """Ways to take over shards that were embedded before, for a build of these inputs."""
        return ()

    def faster_towers(self) -> Iterable[Callable[..., Features]]:
        """Functions like `embedding.convert`, which give a tower as it runs faster on a CPU."""
        return ()

    def near_filter(self, read: ReadVectors, similarity: float) -> NearFilter | None:
        """The filter of pairs that look alike."""
        return None

    def before_retrieval(self, project: Project, inputs: Inputs) -> None:
        """Called before pairs are retrieved: what is left in the scratch of a build is not done
        again.
        """

    def describe_classes(self, table: ClassTable) -> Mapping[str, ClassNotes]:
        """Counts of and a warning about the classes of a retrieved set, under a name."""
        return {}

    def kept_out(self, project: Project, slug: str) -> Mapping[str, Any]:
        """Names of the test sets of `test_digests`, as part of the identity of pairs."""
        return {}

    def test_digests(self, project: Project, slug: str) -> Mapping[str, frozenset[str]]:
        """SHA-256 of images that must not be trained on, by `<extension>/<set>`."""
        return {}

    # Training and what is measured.

    def training_observer(
        self, project: Project, run_id: str
    ) -> AbstractContextManager[TrainingObserver] | None:
        """What sees each step of a training that a run of Dagster makes ("" for none); entered
        before it and left after it, with its error.
        """

    def training_probe(self, customization: Customization, clip: Clip) -> Probe | None:
        """What measures a model while it trains, every `customization.evaluate_every` steps."""
        return None

    def evidence(self, project: Project, slug: str) -> Mapping[str, Evidence]:
        """Evidence on a domain's models beside labelled images, by the stage of its artifact."""
        return {}

    def comparison_pages(self, compared: Compared) -> Mapping[str, str]:
        """Pages of the comparison of a domain, by file name."""
        return {}

    # MLflow.

    def prepare_tracking(self, uri: str) -> None:
        """Prepare this process, and the tables of a local database, for a tracking URI, before
        anything is read or written there.
        """

    def prepare_experiment(self, client: Any, experiment: Any, files: Path | None) -> None:
        """Check and prepare the experiment of a project in MLflow before runs are written to it.

        `files` is the folder of the runs' files; None where a server decides.
        """

    def package_model(
        self, project: Project, checkpoint: Artifact, directory: Path
    ) -> SaveModel | None:
        """What saves a checkpoint as a logged model of MLflow that can be loaded, from files that
        it writes into an empty folder; None: this extension does not.
        """

    def refresh_model(
        self,
        client: Any,
        project: Project,
        checkpoint: tuple[str, str, str],
        model_id: str,
    ) -> None:
        """Bring the logged model of a checkpoint (stage, key, fingerprint) up to date, after a
        result.
        """


@cache
def extensions() -> Mapping[str, Extension]:
    """Every extension whose tables can be read, by name: the core first, then by name."""
    points: dict[str, EntryPoint] = {}
    # Of every distribution: `entry_points()` would ask an older one of the same name on the path.
    declared = (point for one in distributions() for point in one.entry_points.select(group=GROUP))
    for point in declared:
        if point.name == CORE.name or points.setdefault(point.name, point).value != point.value:
            leave_out(f"{point.name} ({point.value})", ValueError("its name is taken"))
    loaded = {CORE.name: CORE.load()()}
    for name in sorted(points.keys() - loaded.keys()):
        try:
            loaded[name] = _opened(points[name])
        except Exception as error:  # noqa: BLE001 - whatever somebody's package raises
            leave_out(name, error)
    return loaded


def _opened(point: EntryPoint) -> Extension:
    """An extension that has answered for all its tables, so that it is added whole or not
    at all.
    """
    extension = point.load()()
    if not isinstance(extension, Extension):
        raise TypeError(f"{point.value} is no react_pipeline.extension.Extension")
    for table in (
        "stages",
        "methods",
        "corpus_kinds",
        "encoders",
        "labelled_kinds",
        "columns",
        "metrics",
    ):
        tuple(getattr(extension, table)())
    for model in extension.sections().values():
        model()
    return extension


_broken: dict[str, str] = {}


def broken_extensions() -> Mapping[str, str]:
    """Extensions of which something was left out so far, and why."""
    return _broken


def brought(
    ask: Callable[[Extension], Brought], *passed: type[Exception]
) -> Iterator[tuple[str, Brought]]:
    """What each extension answers, by name; one that raises is named, and left out of the answers.

    Raises:
        ReactError: What an extension says to the user; `passed` errors as well.
    """
    for name, extension in extensions().items():
        answers = []  # yielded outside, where an error of the caller is not the extension's
        with tolerate(name, ReactError, *passed):
            answers.append(ask(extension))
        for answer in answers:
            yield name, answer


def tell(ask: Callable[[Extension], None], *passed: type[Exception]) -> None:
    """Ask each extension for nothing but what it does, as `brought`."""
    for _ in brought(ask, *passed):
        pass


def until_broken(
    name: str, call: Callable[..., Brought], instead: Brought, *passed: type[Exception]
) -> Callable[..., Brought]:
    """A function like `call`, which an extension brought. When that raises, the extension is named,
    and the answer is `instead` from then on.
    """
    is_broken = False

    def answer(*arguments: Any) -> Brought:
        nonlocal is_broken
        if not is_broken:
            with tolerate(name, *passed):
                return call(*arguments)
            is_broken = True
        return instead

    return answer


def required(ask: Callable[[Extension], Mapping[str, Brought]]) -> dict[str, Brought]:
    """What all extensions answer, joined, where an answer that is missing would falsify results.

    Raises:
        InputError: Naming the extension that raises, or answers for what another did.
    """
    joined: dict[str, Brought] = {}
    for name, extension in extensions().items():
        with demand(name):
            new = dict(ask(extension))
        if taken := joined.keys() & new.keys():
            raise InputError(f"extension {name}: {min(taken)!r} is of another extension")
        joined.update(new)
    return joined


def brought_by_name(ask: Callable[[Extension], Mapping[str, Brought]]) -> dict[str, Brought]:
    """What all extensions answer, joined; one that brings a name that is taken is left out."""
    joined: dict[str, Brought] = {}

    def add(extension: Extension) -> None:
        new = ask(extension)
        if taken := joined.keys() & new.keys():
            raise ValueError(f"`{min(taken)}` is there already")
        joined.update(new)

    tell(add)
    return joined


@contextmanager
def demand(name: str) -> Iterator[None]:
    """Where an extension that is left out would falsify results.

    Raises:
        InputError: Naming the extension, if something unexpected is raised.
    """
    try:
        yield
    except ReactError:
        raise
    except Exception as error:
        raise InputError(
            f"extension {name}: {type(error).__name__}: {error}; correct it, or uninstall it"
        ) from error


@contextmanager
def tolerate(name: str, *passed: type[Exception]) -> Iterator[None]:
    """Where an extension that raises is named, and all else continues; `passed` errors, and those
    of the core, are raised.
    """
    try:
        yield
    except passed:
        raise
    except Exception as error:  # noqa: BLE001 - whatever somebody's package raises
        leave_out(name, error)


def leave_out(name: str, error: Exception) -> None:
    """Name an extension of which something is left out; an error of the core is raised."""
    if name == CORE.name:
        raise error
    _broken[name] = f"{type(error).__name__}: {error}"
    logger.warning("the extension %s is left out: %s", name, _broken[name])
