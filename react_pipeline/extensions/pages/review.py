"""Decisions of people on images: the retrieved pairs of a class as a grid, the worst first,
where a click rejects; and taking an image down, which keeps it out of all future sets and lists the
sets and models of the past that have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from react_pipeline.corpus import CollectedPairs
from react_pipeline.embedding import field_names, read_metadata
from react_pipeline.extensions.pages.server import (
    Asked,
    Board,
    Button,
    Item,
    Menu,
    View,
    open_lines,
)
from react_pipeline.project import (
    ImageDecision,
    Project,
    current_decisions,
    review_file,
    takedown_file,
    taken_down,
)
from react_pipeline.stage import ALL
from react_pipeline.store import Artifact, InputError, MissingArtifact, write_atomically

_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Answer(BaseModel):
    """A decision on an image by its SHA-256; None takes the earlier one back."""

    model_config = ConfigDict(extra="forbid")

    image: str
    verdict: Literal["reject"] | None


class _Asked(Asked):
    label: str = Field(default="", alias="class")


class ReviewBoard(Board):
    """The pairs of a domain's current retrieved set.

    Attributes:
        pairs: Columns class, url, caption, `image_sha256`, and `position` in the training shards;
            class by class, those that retrieval ranks last first.
        decisions: What counts for each image, by its SHA-256.
    """

    hint = (
        "The worst pairs of a class come first: go on when they look right. A click on a "
        "picture rejects it, another one takes it back. Every decision is saved at once."
    )

    def __init__(
        self, project: Project, slug: str, person: str, write: Callable[[str], bytes]
    ) -> None:
        """Use `open_review`."""
        self.title = f"Review: {slug}"
        self.max_pixels = project.config.corpus.max_pixels
        self.decisions = current_decisions(project, slug)
        self._person = person
        self._write = write
        artifact = project.store.current("retrieved_set", slug)
        self._collected = CollectedPairs(artifact)
        table = pd.read_parquet(artifact.file("pairs.parquet"))
        self._names = list(dict.fromkeys(project.domain(slug).class_names))
        table["class"] = pd.Categorical(table["class"], self._names)
        table["url"] = table["url"].fillna("") if "url" in table else ""
        positions = pd.Series(range(len(self._collected)), self._collected.rows)
        table["position"] = positions[table["row"]].to_numpy()
        # The file has the best first; of a class that is gone there is nothing to decide.
        table = table[::-1].dropna(subset="class")
        self.pairs = table.sort_values("class", kind="stable")

    def view(self, asked: Mapping[str, Any]) -> View:
        """Show the pairs of a class, with what was decided."""
        query = _Asked.model_validate(asked)
        label = query.label or self._names[0]
        mine = self.pairs[self.pairs["class"] == label]
        part, more = query.shown(len(mine))
        items = tuple(self._item(pair) for _, pair in mine[part].iterrows())
        following = self._names[(self._names.index(label) + 1) % len(self._names)]
        further = Button("Next class", "c", ask={"class": following})
        sizes = self.pairs["class"].value_counts(sort=False).items()
        names = tuple((name, f"{name} ({size})") for name, size in sizes)
        menu = Menu("class", "Class", label, names)
        return View(f"decisions: {len(self.decisions)}", items, (*more, further), (menu,))

    def picture(self, number: int) -> bytes:
        """Return the image at a position of the training shards."""
        return self._collected.encoded(number)

    def answer(self, answer: Any) -> bool:
        """Record a decision."""
        given = _Answer.model_validate(answer)
        pairs = self.pairs[self.pairs["image_sha256"] == given.image]
        if pairs.empty:
            raise InputError("a decision needs an image of this set")
        decision = ImageDecision(
            **given.model_dump(),
            url=pairs["url"].iloc[0],
            label=pairs["class"].iloc[0],
            by=self._person,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._write(decision.model_dump_json(by_alias=True))
        self.decisions.pop(decision.image, None)
        if decision.verdict is not None:
            self.decisions[decision.image] = decision
        return True

    def _item(self, pair: pd.Series) -> Item:
        note = "reject" if pair["image_sha256"] in self.decisions else ""
        answer = {"image": pair["image_sha256"], "verdict": None if note else "reject"}
        return Item(f"picture/{pair['position']}", pair["caption"], note, answer)


@contextmanager
def open_review(project: Project, slug: str, person: str) -> Iterator[ReviewBoard]:
    """Hold the decisions of a domain open.

    Raises:
        InputError: If another process has them open, or the file is not one of decisions.
        MissingArtifact: If nothing was retrieved yet.
        StoreWriteError: If the file cannot be written.
    """
    with open_lines(review_file(project, slug)) as write:
        yield ReviewBoard(project, slug, person, write)


def take_down(project: Project, image: str) -> None:
    """Add an image to `takedown.txt`, by SHA-256 or URL.

    Raises:
        InputError: If it is neither.
    """
    if not _DIGEST.fullmatch(image) and "://" not in image:
        raise InputError(
            f"{image!r}: give the SHA-256 (64 hexadecimal digits, in lower case) or URL of an image"
        )
    if image not in taken_down(project):
        path = takedown_file(project)
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        write_atomically(path, "".join(f"{line}\n" for line in [*lines, image]))


def find_uses(project: Project, image: str) -> pd.DataFrame:
    """Return the published sets that have an image, and the checkpoints that were trained on them.

    Returns:
        Columns stage, key, fingerprint, class, current, trained (methods).
    """
    trained: dict[str, set[str]] = {}
    for checkpoint in _published(project, "customized_checkpoint"):
        for parent in checkpoint.parents.values():
            trained.setdefault(parent, set()).add(checkpoint.key.partition("/")[2])
    keys = [image, *_digests_at(project, image)]
    rows = [
        (
            stage,
            artifact.key,
            artifact.fingerprint,
            label,
            artifact.fingerprint == project.store.pointer(stage, artifact.key),
            ", ".join(sorted(trained.get(artifact.fingerprint, ()))),
        )
        for stage in ("retrieved_set", "control_set")
        for artifact in _published(project, stage)
        for label in _classes_with(artifact, keys)
    ]
    columns = ["stage", "key", "fingerprint", "class", "current", "trained"]
    return pd.DataFrame(rows, columns=columns)


def _published(project: Project, stage: str) -> Iterator[Artifact]:
    """Yield every artifact of a stage, current or not."""
    for key in project.store.keys(stage):
        for fingerprint in project.store.versions(stage, key):
            yield project.store.open(stage, key, fingerprint)


def _digests_at(project: Project, url: str) -> list[str]:
    """Return the digests of the images of a URL, where the corpus brings both: sets of tars have
    no URLs.
    """
    try:
        embeddings = project.store.current("corpus_embeddings", ALL)
    except MissingArtifact:
        return []
    if "://" not in url or "url" not in field_names(embeddings):
        return []
    pairs = read_metadata(embeddings, ["url", "image_sha256"])
    return list(filter(None, pairs.loc[pairs["url"] == url, "image_sha256"].dropna()))


def _classes_with(artifact: Artifact, keys: list[str]) -> Iterator[str]:
    """Yield the class of each pair of a set, of all draws of a control, that has one of these
    keys.
    """
    for name in artifact.manifest["files"]:
        if name.rpartition("/")[2] == "pairs.parquet":
            pairs = pd.read_parquet(artifact.file(name))
            columns = pairs.columns.intersection(["image_sha256", "url"])
            yield from pairs.loc[pairs[columns].isin(keys).any(axis=1), "class"]
