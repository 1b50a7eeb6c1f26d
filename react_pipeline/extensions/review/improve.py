"""Improve: changes of a domain that help on held-out pairs, each tried beside its control.

A change is a synonym of a class, or pairs of a class that are rejected. Its control is of the same
form: the synonym that was proposed for another class, or as many random pairs of the class. Every
change is retrieved with, as `retrieve_pairs` would, and a `gda` head is fitted to the pairs that
this keeps. Held-out pairs are those that both retrievals keep for the same class.

Rows of the corpus have two halves. Changes are chosen on one; all that were chosen are tested
together on the other, so the test knows nothing of the choice. It is paired: of the pairs that one
head alone gets right, at most half are the new head's if the change does nothing (exact binomial,
McNemar's). Shapes: N pairs, D embedding dimension, C classes.
"""

from __future__ import annotations

import difflib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from react_pipeline.clip import ClassHead, domain_head
from react_pipeline.embedding import row_metadata, vectors_of
from react_pipeline.extensions.labels import put_in_classes
from react_pipeline.extensions.methods import HeadMethod, HeadSamples
from react_pipeline.extensions.review.log import open_log
from react_pipeline.extensions.review.pairs import ReviewedPair, ReviewedSet
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.retrieval import Preview
from react_pipeline.settings import METHODS, DomainConfig, TrainingConfig, load_domain
from react_pipeline.store import Artifact, InputError

LEVEL = 0.05
"""Of the test: chosen changes that do nothing pass it as often."""
NEIGHBOURS, POOL_ROWS, LEAST_PAIRS = 40, 50_000, 3
"""Images near a class whose captions propose a synonym, candidates that they are looked for in, and
captions that say it at least."""


@dataclass(frozen=True)
class Change:
    """A synonym of a class, or rows of the corpus that are rejected as its pairs."""

    class_id: int
    synonym: str = ""
    rejected: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Held-out pairs, and how many of them the new head alone or the old head alone gets right."""

    pairs: int
    gained: int
    lost: int

    @property
    def net(self) -> int:
        """Pairs that are right now and were not, less those that were."""
        return self.gained - self.lost

    @property
    def p_value(self) -> float:
        """One-sided, of the exact binomial test."""
        from scipy.stats import binomtest  # type: ignore[import-untyped]

        differing = self.gained + self.lost
        if not differing:
            return 1.0
        return float(binomtest(self.gained, differing, alternative="greater").pvalue)


@dataclass(frozen=True)
class Try:
    """A change and its control, compared with the domain as it is, on the half of the choice."""

    change: Change
    control: Change
    own: Comparison
    of_control: Comparison

    @property
    def is_chosen(self) -> bool:
        """Whether it gained, and more than its control."""
        return self.own.net > max(0, self.of_control.net)


@dataclass(frozen=True)
class Improvement:
    """All tries, and the test of the chosen changes together and of their controls together; None
    where none was chosen.
    """

    tries: Sequence[Try]
    own: Comparison | None
    of_controls: Comparison | None

    @property
    def changes(self) -> list[Change]:
        """The chosen changes, if they help beyond noise and more than their controls; else none."""
        if self.own is None or self.of_controls is None:
            return []
        helps = self.own.p_value <= LEVEL and self.own.net > self.of_controls.net
        return [one.change for one in self.tries if one.is_chosen] if helps else []


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs that a retrieval keeps: rows of the corpus (N,), ascending, and their
    classes (N,).
    """

    rows: NDArray[np.int64]
    class_ids: NDArray[np.int64]

    @property
    def halves(self) -> NDArray[np.int64]:
        """The half of each row (N,), 0 or 1, whichever retrieval keeps it."""
        return (self.rows * 2_654_435_761 % 2**32) >> 31


def improve(
    trial: Trial,
    count: int,
    progress: Callable[[Sequence[Change]], Sequence[Change]] = lambda changes: changes,
) -> Improvement:
    """Propose changes of the classes that the held-out pairs confuse most, and try them.

    Args:
        count: Changes to try.
        progress: Shows how far the tries are.
    """
    proposed = propose(trial)
    changes = proposed[:count]
    controls = controls_of(trial, changes, proposed)
    tries = []
    for change, control in zip(progress(changes), controls, strict=True):
        own, of_control = (trial.compare([one], half=0) for one in (change, control))
        tries.append(Try(change, control, own, of_control))
    chosen = [one for one in tries if one.is_chosen]
    if not chosen:
        return Improvement(tries, None, None)
    own = trial.compare([one.change for one in chosen], half=1)
    return Improvement(tries, own, trial.compare([one.control for one in chosen], half=1))


class Trial:
    """Retrieval with and without changes, and heads on what it keeps."""

    def __init__(self, project: Project, slug: str) -> None:
        """Retrieve with the domain as it is.

        Raises:
            MissingArtifact, StaleArtifact: If the retrieved set has to be materialized first.
            InputError: If retrieval keeps too few pairs.
        """
        self.domain: DomainConfig = project.domain(slug)
        self.embeddings: Artifact = fresh(project, "corpus_embeddings")
        table = pd.read_parquet(fresh(project, "retrieved_set", slug).file("pairs.parquet"))
        self.published = frozenset(table["row"])
        self._preview = Preview(project, slug)
        self._zero_shot = domain_head(self._preview.clip, self.domain).contiguous()
        self.candidates = self._preview.candidates()
        self.before = _kept(self.candidates)
        if any((self.before.halves == half).sum() < len(self.domain.classes) for half in (0, 1)):
            raise InputError(
                f"{slug}: retrieval keeps {len(self.before.rows)} pairs, too few to hold out half "
                "of; raise `k_per_prompt` or `max_per_class`, or use a larger corpus"
            )
        self._heads = [self._fit(self.before, half) for half in (0, 1)]

    def retrieve(self, changes: Sequence[Change]) -> Pairs:
        """What is kept with some changes."""
        classes = list(self.domain.classes)
        removed: set[str] = set()
        for change in changes:
            entry = classes[change.class_id]
            if change.synonym:
                names = (*entry.synonyms, change.synonym)
                classes[change.class_id] = entry.model_copy(update={"synonyms": names})
            mine = self.candidates[self.candidates["row"].isin(change.rejected)]
            for column in {"image_sha256", "url"} & {*mine}:
                removed.update(key for key in mine[column] if key)
        domain = self.domain.model_copy(update={"classes": tuple(classes)})
        return _kept(self._preview.candidates(domain, frozenset(removed)))

    def compare(self, changes: Sequence[Change], half: int) -> Comparison:
        """Heads fitted to the other half, without and with the changes, on the pairs of this half
        that both retrievals keep for the same class.
        """
        after = self.retrieve(changes)
        table = pd.DataFrame({"row": after.rows, "class_id": after.class_ids})
        own = pd.DataFrame({"row": self.before.rows, "class_id": self.before.class_ids})
        common = own[self.before.halves == half].merge(table)
        images = self.images(common["row"].to_numpy())
        class_ids = torch.tensor(common["class_id"].to_numpy())
        old, new = (
            head.scores(images).argmax(dim=1) == class_ids
            for head in (self._heads[half], self._fit(after, half))
        )
        return Comparison(len(common), int((new & ~old).sum()), int((old & ~new).sum()))

    def images(self, rows: NDArray[np.int64]) -> Tensor:
        """Unit vectors (N, D) of rows."""
        return normalize(torch.from_numpy(vectors_of(self.embeddings, "image", rows)), dim=1)

    def captions(self, rows: NDArray[np.int64]) -> list[str]:
        """The caption of each row."""
        texts = row_metadata(self.embeddings, pd.Series(rows), ["caption"])["caption"]
        return [str(text or "") for text in texts.fillna("").to_numpy()]

    @cached_property
    def synonyms(self) -> Synonyms:
        """What captions propose."""
        return Synonyms(self)

    @cached_property
    def margins(self) -> NDArray[np.float32]:
        """How much more the head of the other half scores the own class of each pair than the best
        other class (N,).
        """
        margins = np.zeros(len(self.before.rows), np.float32)
        for half in (0, 1):
            mine = self.before.halves == half
            scores = self._heads[half].scores(self.images(self.before.rows[mine])).numpy()
            own = self.before.class_ids[mine]
            place = np.arange(len(own))
            of_own = scores[place, own]
            scores[place, own] = -np.inf
            margins[mine] = of_own - scores.max(axis=1, initial=-1e9)
        return margins

    def _fit(self, pairs: Pairs, half: int) -> ClassHead:
        """The head of a half: fitted to the pairs of the other."""
        mine = pairs.halves != half
        method = METHODS["gda"]
        assert isinstance(method, HeadMethod)  # noqa: S101 - as its name says
        images = self.images(pairs.rows[mine])
        class_ids = torch.tensor(pairs.class_ids[mine])
        nothing = torch.zeros(0, dtype=torch.long)
        samples = HeadSamples(self._zero_shot, images, images, class_ids, images[:0], nothing)
        head, _ = method.fit(samples, TrainingConfig(), None)  # type: ignore[arg-type]  # no step
        return head


def _kept(candidates: pd.DataFrame) -> Pairs:
    kept = candidates[candidates["dropped"] == ""].sort_values("row")
    return Pairs(kept["row"].to_numpy(np.int64), kept["class_id"].to_numpy(np.int64))


def propose(trial: Trial) -> list[Change]:
    """Changes of all classes, those with most confused pairs first: a synonym and a
    rejection each.
    """
    confused = pd.Series(trial.margins < 0).groupby(trial.before.class_ids).sum()
    order = confused.sort_values(ascending=False, kind="stable").index.tolist()
    changes: list[Change] = []
    for class_id in order:
        if synonym := trial.synonyms.of(class_id):
            changes.append(Change(class_id, synonym))
        if rejected := _doubtful(trial, class_id):
            changes.append(Change(class_id, rejected=rejected))
    return changes


def controls_of(
    trial: Trial, changes: Sequence[Change], proposed: Sequence[Change]
) -> list[Change]:
    """A change of the same form for each, which knows nothing of the class.

    Of a synonym: the next one that was proposed for another class, tried or not; where all that
    were proposed are the same, a random phrase of the captions.
    """
    random = np.random.default_rng(0)
    synonyms = [change.synonym for change in proposed if change.synonym]
    controls = []
    for change in changes:
        if change.synonym:
            place = synonyms.index(change.synonym)
            others = [*synonyms[place:], *synonyms[:place]]
            other = next((one for one in others if one != change.synonym), "")
            other = other or trial.synonyms.draw(random, change.synonym)
            controls.append(Change(change.class_id, other))
        else:
            rows = trial.before.rows[trial.before.class_ids == change.class_id]
            drawn = random.choice(rows, len(change.rejected), replace=False)
            controls.append(Change(change.class_id, rejected=tuple(drawn.tolist())))
    return controls


def _doubtful(trial: Trial, class_id: int) -> tuple[int, ...]:
    """Pairs of a class whose caption says none of its names and whose image is nearer to another
    class, the least sure first; half of the class at most.
    """
    mine = np.flatnonzero(trial.before.class_ids == class_id)
    rows = trial.before.rows[mine]
    entry = trial.domain.classes[class_id]
    names = [_spaced(name) for name in (entry.name, *entry.synonyms)]
    says_name = [
        any(name in _spaced(caption) for name in names) for caption in trial.captions(rows)
    ]
    is_doubtful = (trial.margins[mine] < 0) & ~np.array(says_name, bool)
    is_doubtful &= np.isin(rows, list(trial.published))
    order = np.argsort(trial.margins[mine], kind="stable")
    return tuple(rows[order][is_doubtful[order]][: len(mine) // 2].tolist())


class Synonyms:
    """Words that captions of images near a class say, and captions of others do not."""

    def __init__(self, trial: Trial) -> None:
        rows = pd.unique(trial.candidates["row"])[:POOL_ROWS]
        self._images = trial.images(rows)
        self._phrases = [{*_phrases(caption)} for caption in trial.captions(rows)]
        self._counts = Counter(phrase for one in self._phrases for phrase in one)
        self._trial = trial
        classes = trial.domain.classes
        self._names = [_spaced(name) for one in classes for name in (one.name, *one.synonyms)]

    def of(self, class_id: int) -> str:
        """The best synonym, "" if none is said often enough."""
        mine = self._trial.before.rows[self._trial.before.class_ids == class_id]
        centre = self._trial.images(mine).mean(dim=0)
        near = (self._images @ centre).topk(min(NEIGHBOURS, len(self._images))).indices.tolist()
        said = Counter(phrase for row in near for phrase in self._phrases[row])
        scores = {
            phrase: times * np.log(len(self._phrases) / self._counts[phrase])
            for phrase, times in said.items()
            if times >= LEAST_PAIRS and not self._is_name(phrase)
        }
        return max(sorted(scores), key=scores.__getitem__, default="")

    def draw(self, random: np.random.Generator, synonym: str) -> str:
        """A random phrase that is neither this synonym nor a name."""
        phrases = [
            phrase
            for phrase, times in sorted(self._counts.items())
            if times >= LEAST_PAIRS and phrase != synonym and not self._is_name(phrase)
        ]
        return str(random.choice(phrases)) if phrases else ""

    def _is_name(self, phrase: str) -> bool:
        """Whether it says a name of the domain, or is said by one."""
        padded = f" {phrase} "
        return any(name in padded or padded in name for name in self._names)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _spaced(text: str) -> str:
    """Its words, so that one text is in another only as whole words."""
    return f" {' '.join(_words(text))} "


def _phrases(caption: str) -> Iterator[str]:
    """One to three words that follow one another."""
    words = _words(caption)
    for length in (1, 2, 3):
        for start in range(len(words) - length + 1):
            yield " ".join(words[start : start + length])


def diff_of(project: Project, slug: str, changes: Sequence[Change]) -> str:
    """The change of the domain's file, as a unified diff.

    Raises:
        ConfigError, InputError: If the file cannot be changed so, or would be wrong then.
    """
    path = project.config.domains / f"{slug}.yaml"
    with tempfile.TemporaryDirectory() as folder:
        changed = Path(shutil.copy(path, folder))
        _put_synonyms(changed, changes)
        load_domain(changed)
        before, after = (
            one.read_text(encoding="utf-8").splitlines(keepends=True) for one in (path, changed)
        )
    return "".join(difflib.unified_diff(before, after, path.name, path.name))


def rejections_of(project: Project, slug: str, changes: Sequence[Change]) -> list[ReviewedPair]:
    """The pairs of the current retrieved set that the changes reject."""
    rows = [row for change in changes for row in change.rejected]
    return [pair for pair in ReviewedSet(project, slug).pairs if pair.row in set(rows)]


def write_changes(project: Project, slug: str, changes: Sequence[Change]) -> None:
    """Change the domain's file, and add rejections to its review. Safe to repeat: the file comes
    last.

    Raises:
        ConfigError, InputError: As `diff_of`; or if somebody reviews the domain. Nothing is
        written. StoreWriteError: If the disk refuses it.
    """
    diff_of(project, slug, changes)
    with open_log(project, slug, "react-pipeline improve") as log:
        for pair in rejections_of(project, slug, changes):
            if pair.image not in log.decisions:
                log.decide(pair, "reject")
    _put_synonyms(project.config.domains / f"{slug}.yaml", changes)


def _put_synonyms(path: Path, changes: Sequence[Change]) -> None:
    synonyms = {change.class_id: [change.synonym] for change in changes if change.synonym}
    put_in_classes(path, "synonyms", synonyms)
