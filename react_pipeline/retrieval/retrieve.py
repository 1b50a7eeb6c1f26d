"""Retrieval: which pairs of the corpus a domain is customized on.

The steps are in `seeds`, `candidates`, `fusion`, `ranking`, `examination`, `class_report` and
`chosen_pairs`.

Follows REACT (Liu et al. 2023, arXiv 2301.07094): every template x every name is a query of its
own, k counts per prompt, T2T searches captions and T2I images. Added to it: I2I from seed images,
fusion of the modes, no duplicates and no near duplicates, no evaluation images, a cap, balance, a
similarity floor, all classes of a pair, and a report.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.clip import class_prompts, prompt_templates
from react_pipeline.corpus import ImageSource, open_source
from react_pipeline.indexing import Index
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster
from react_pipeline.retrieval.candidate_rows import candidate_metadata
from react_pipeline.retrieval.candidates import (
    SEARCH,
    Candidates,
    Queries,
    encode_prompts,
    find_candidates,
)
from react_pipeline.retrieval.chosen_pairs import sheets_of, write_pairs
from react_pipeline.retrieval.class_report import ClassTable, class_report, write_report
from react_pipeline.retrieval.control import load_encoder
from react_pipeline.retrieval.decontamination import EvaluationImages, kept_out, require_subjects
from react_pipeline.retrieval.examination import Examination
from react_pipeline.retrieval.ranking import DROP_REASONS, classes_of
from react_pipeline.retrieval.review import Review, refusals, require_none_taken_down
from react_pipeline.retrieval.seeds import encode_apart, read_seeds
from react_pipeline.settings import DomainConfig, RetrievalConfig
from react_pipeline.stage import (
    CORPUS_EMBEDDINGS,
    EVALUATION_SET,
    FAISS_INDEX,
    RETRIEVED_SET,
    encoder_in,
)
from react_pipeline.store import Artifact, RetrievalError, Scratch

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

logger = logging.getLogger(__name__)

NO_SUBJECT = (
    "same_subject: exclude keeps no pair out, because no evaluation image names a subject (a "
    "manifest may, in its column subject)"
)


def retrieve_pairs(project: Project, slug: str) -> Artifact:
    """Publish the pairs of the corpus that a domain's class names find, collected into training
    shards.

    Starving classes are recorded in the counts (`starving`, `starving_fraction`), not refused here:
    the blocking check and `customize` refuse to train on too many of them.

    Files: `pairs.parquet`, `shards/`, `contact_sheet.png` (`contact_sheet_2.png` and so on for
    further classes), and the report: `classes.parquet` (per class: prompts, seeds, candidates,
    kept, pairs kept for another class, one column a reason of dropping, shortfall of the search),
    `similarity.png`, `report.md`.
    In `pairs.parquet`, `class` is the class that a pair counts for, `classes` all that want it;
    `score` is what the fusion went by; `evaluation_similarity` is the cosine of an image with the
    nearest evaluation image, NaN without any.

    A killed build leaves the images that were fetched and the parts of a search, and the next
    one continues with these.

    Raises:
        RetrievalError: If no pair is left at all, naming the classes and why their candidates were
            dropped.
        InputError: If seed images are missing, or show evaluation images.
    """
    from react_pipeline.extensions.one_pass import read_together

    inputs = resolve(project, RETRIEVED_SET, slug)
    with cluster(project.config.distributor):
        read_together(project, inputs)  # for other domains that are due, too

        def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
            return _Retrieval(project, slug, inputs.parents, scratch).write(directory)

        return project.store.build(inputs, write)


@dataclass(frozen=True)
class _Retrieval:
    """The retrieval of one domain. `scratch` keeps what a build that is resumed does not repeat."""

    project: Project
    slug: str
    parents: Mapping[str, Artifact]
    scratch: Scratch

    def write(self, directory: Path) -> dict[str, Any]:
        """Search, choose and collect pairs, and report; returns the counts."""
        from react_pipeline.extensions.names import describe_classes

        started = time.monotonic()
        candidates = self._candidates()
        examination = self._examination()
        examination.choose(candidates, self.evaluation)
        search = self.search
        classes = class_report(self.domain, self.queries, search.hits, candidates, self.settings)
        if not classes["kept"].any():
            raise RetrievalError(_nothing_found(self.slug, classes))
        table = ClassTable(self.domain, self.embeddings, classes, directory, self.search_scratch)
        notes = describe_classes(table)
        pairs = write_pairs(
            directory,
            self._chosen(candidates),
            self.source,
            shard_pairs=self.settings.shard_pairs,
            max_pixels=self.project.config.corpus.max_pixels,
        )
        require_none_taken_down(self.project, self.embeddings, pairs)
        counts = _count_pairs(pairs, classes, candidates, self.settings)
        counts |= {
            **notes.counts,
            "search": search.searches,
            "evaluation_images": len(self.evaluation.vectors),
            "evaluation_sets": dict(self.evaluation.sets),
            **examination.counts(),
        }
        if lost := self.review.missing_pins(pairs):
            counts["pins_missing"] = lost
        counts["seconds"] = round(time.monotonic() - started, 2)
        title = self.domain.title or self.slug
        sheets = sheets_of(pairs)
        warnings = [notes.warning] if notes.warning else []
        if self.settings.same_subject == "exclude" and not self.evaluation.subjects:
            warnings.append(NO_SUBJECT)
            logger.warning("%s: %s", self.slug, NO_SUBJECT)
        write_report(directory, title, classes, candidates, self.settings, counts, sheets, warnings)
        return counts

    def preview(self) -> pd.DataFrame:
        """The candidates, ranked by what is known before any image is fetched."""
        candidates = self._candidates()
        self._examination().rank(candidates, self.evaluation)
        return candidates

    @cached_property
    def domain(self) -> DomainConfig:
        """The domain's file."""
        return self.project.domain(self.slug)

    @cached_property
    def settings(self) -> RetrievalConfig:
        """The domain's settings; where all pairs are taken, a class has no cap."""
        settings = self.project.retrieval(self.slug)
        if settings.choose != "all":
            return settings
        rows = int(self.embeddings.counts["rows"])
        return settings.model_copy(update={"max_per_class": rows})

    @cached_property
    def review(self) -> Review:
        """What people decided on single images."""
        return Review.of(self.project, self.slug)

    @property
    def embeddings(self) -> Artifact:
        """The vectors that are searched."""
        return self.parents[CORPUS_EMBEDDINGS]

    @property
    def search_scratch(self) -> Scratch:
        """Where the results of a search are kept."""
        return Scratch(self.scratch.folder / SEARCH)

    @cached_property
    def clip(self) -> Clip:
        """The encoder that retrieves."""
        return load_encoder(self.project, self.parents[encoder_in(self.parents)])

    @cached_property
    def source(self) -> ImageSource:
        """The images."""
        return open_source(self.project, self.parents["corpus"], self.scratch.journal("fetched"))

    @cached_property
    def evaluation(self) -> EvaluationImages:
        """The images that are kept out."""
        labelled = self.parents[EVALUATION_SET]
        scope = self.settings.decontaminate
        evaluation = kept_out(self.project, self.slug, labelled, scope, self.clip)
        require_subjects(self.embeddings, evaluation)
        return evaluation

    @cached_property
    def queries(self) -> Queries:
        """The prompts and seeds, and their vectors."""
        seeds = read_seeds(self.project, self.slug)
        place = f"{self.slug}.yaml, classes.seeds"
        seed_vectors = encode_apart(self.project, seeds, self.evaluation, self.clip, place)
        prompts = class_prompts(self.domain)
        vectors = encode_prompts(self.clip, prompts, self.search_scratch)
        return Queries(prompts, vectors, seeds, seed_vectors)

    @cached_property
    def search(self) -> Candidates:
        """The hits of all queries."""
        index = Index(
            self.parents[FAISS_INDEX],
            self.parents[encoder_in(self.parents)].fingerprint,
            embeddings=self.embeddings,
            device=self.project.config.device,
        )
        return find_candidates(
            index, self.embeddings, self.queries, self.settings, self.search_scratch
        )

    def _examination(self) -> Examination:
        return Examination(self.source, self.embeddings, self.settings, self.review)

    def _candidates(self) -> pd.DataFrame:
        """The hits in their order, with what identifies equal images and evaluation images."""
        candidates = self.search.table
        rows = candidates["row"].drop_duplicates()
        metadata = self._metadata(rows, [self.source.identity, *self.evaluation.row_columns])
        metadata["evaluation_similarity"] = self.evaluation.similarity_of_rows(
            self.embeddings, rows.to_numpy()
        )
        described = candidates.join(metadata, on="row")
        if "image_sha256" not in described:
            described = described.assign(image_sha256="")
        self.review.require_corpus(described, self.embeddings, self.source.identity)
        return self._filtered(self.review.place(described))

    def _metadata(self, rows: pd.Series, columns: list[str]) -> pd.DataFrame:
        return candidate_metadata(self.embeddings, rows, columns, self.search_scratch)

    def _filtered(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """The candidates, with those marked that a person took down or of which `where` is not
        true.
        """
        for reason, refuses in refusals(self.review, self.embeddings, self.settings.where).items():
            is_open = candidates["dropped"] == ""
            rows = candidates.loc[is_open, "row"].unique()
            refused = rows[refuses(rows)]
            candidates.loc[is_open & candidates["row"].isin(refused), "dropped"] = reason
        return candidates

    def _chosen(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """The kept candidates by class, with everything that is published or needed to collect
        them.
        """
        names = self.domain.class_names
        pairs = candidates[candidates["dropped"] == ""].sort_values("class_id", kind="stable")
        pairs["class"] = pd.Series(names)[pairs["class_id"]].to_numpy()
        pairs["prompt"] = self.queries.texts[pairs["query"]].to_numpy()
        pairs["classes"] = classes_of(candidates, names)[pairs["row"]].to_numpy()
        more = [column for column in self.source.columns if column not in pairs]
        return pairs.join(self._metadata(pairs["row"], more), on="row")


class Preview:
    """The candidates of a domain as `retrieve_pairs` ranks them; nothing is fetched or
    published.
    """

    def __init__(self, project: Project, slug: str) -> None:
        """Find what a retrieval is made from.

        Raises:
            MissingArtifact, StaleArtifact: If it has to be materialized first.
        """
        parents = resolve(project, RETRIEVED_SET, slug).parents
        self._retrieval = _Retrieval(project, slug, parents, Scratch(Path()))

    @property
    def clip(self) -> Clip:
        """The encoder that retrieves."""
        return self._retrieval.clip

    def candidates(self) -> pd.DataFrame:
        """Return the candidates, the best first: columns class_id, row, similarity, mode, dropped
        ("" where kept) and more.
        """
        own = self._retrieval
        with cluster(own.project.config.distributor), tempfile.TemporaryDirectory() as folder:
            retrieval = replace(own, scratch=Scratch(Path(folder)))
            retrieval.__dict__.update(clip=own.clip)
            return retrieval.preview()


def _count_pairs(
    pairs: pd.DataFrame, classes: pd.DataFrame, candidates: pd.DataFrame, settings: RetrievalConfig
) -> dict[str, Any]:
    starving = classes.loc[classes["kept"] < settings.min_per_class, "class"].tolist()
    return {
        "pairs": len(pairs),
        "classes": int((classes["kept"] > 0).sum()),
        "starving": starving,
        "starving_fraction": len(starving) / len(classes),
        "candidates": len(candidates),
        "several_classes": int((pairs["classes"].str.len() > 1).sum()),
        "dropped": {reason: int(classes[reason].sum()) for reason in DROP_REASONS},
        "shared": int(classes["several_classes"].sum()),
        "shortfall": int(classes["shortfall"].sum()),
        "pairs_by_mode": {mode: int((pairs["mode"] == mode).sum()) for mode in settings.modes},
    }


def most_pairs(project: Project, slug: str, rows: int) -> int:
    """How many pairs of a corpus of so many rows a domain retrieves at most."""
    settings = project.retrieval(slug)
    domain = project.domain(slug)
    hits = len(prompt_templates(domain)) * settings.k_per_prompt * len(settings.modes)
    of_classes = (
        min(settings.max_per_class, hits * (1 + len(entry.synonyms))) for entry in domain.classes
    )
    most = rows if settings.choose == "all" else min(rows, sum(of_classes))
    return min(most, settings.max_pairs or most)


def _nothing_found(slug: str, classes: pd.DataFrame) -> str:
    named = ", ".join(classes["class"].head(20))
    if len(classes) > 20:
        named += f" and {len(classes) - 20} more"
    totals = classes[["candidates", *DROP_REASONS]].sum()
    dropped = [f"{reason} {totals[reason]}" for reason in DROP_REASONS if totals[reason]]
    relax = "Relax `where`, lower" if totals["filtered"] else "Lower"
    return (
        f"{slug}: no pair is left for any class ({named}); {totals['candidates']} candidates were "
        f"found, dropped: {', '.join(dropped) or 'none'}. {relax} `min_similarity`, raise "
        "`k_per_prompt`, add synonyms, or use a corpus that shows these classes"
    )
