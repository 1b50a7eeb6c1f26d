"""Retrieval: which pairs of the corpus a domain is customized on.

The steps are in `seeds`, `candidates`, `fusion`, `ranking`, `examination`, `class_report` and
`chosen_pairs`.

Follows REACT (Liu et al. 2023, arXiv 2301.07094): every template x every name is a query of its
own, k counts per prompt, T2T searches captions and T2I images. Added to it: I2I from seed images,
fusion of the modes, no duplicates and no near duplicates, no evaluation images, a cap, balance, a
similarity floor, all classes of a pair, and a report.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.clip import class_prompts, prompt_templates
from react_pipeline.corpus import ImageSource, open_source
from react_pipeline.embedding import row_metadata, vectors_of
from react_pipeline.indexing import Index
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.retrieval.candidates import Queries, find_candidates
from react_pipeline.retrieval.chosen_pairs import (
    FETCHED,
    SEARCHED,
    resumable,
    sheets_of,
    write_pairs,
)
from react_pipeline.retrieval.class_report import class_report, similarity_report, write_report
from react_pipeline.retrieval.control import load_encoder
from react_pipeline.retrieval.decontamination import EvaluationImages, kept_out, require_subjects
from react_pipeline.retrieval.diversity import diverse_order
from react_pipeline.retrieval.examination import Examination
from react_pipeline.retrieval.name_counts import NAMES, count_names
from react_pipeline.retrieval.ranking import DROP_REASONS, classes_of
from react_pipeline.retrieval.seeds import encode_seeds, read_seeds
from react_pipeline.retrieval.unnamed import unnamed_classes
from react_pipeline.settings import DistributorConfig, DomainConfig
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, RetrievalError


def retrieve_pairs(project: Project, slug: str) -> Artifact:
    """Publish the pairs of the corpus that a domain's class names find, collected into training
    shards.

    Starving classes are recorded in the counts (`starving`, `starving_fraction`), not refused here:
    the blocking check and `customize` refuse to train on too many of them.

    Files: `pairs.parquet`, `shards/`, `finished.json`, `contact_sheet.png` (`contact_sheet_2.png`
    and so on for further classes), and the report: `classes.parquet` (per class: prompts, seeds,
    candidates, kept, pairs kept for another class, one column a reason of dropping, shortfall of
    the search, captions that say each name), `names.parquet` (of `count_names`),
    `similarity.parquet`, `similarity.png`, `report.md`. In `pairs.parquet`, `class` is the class
    that a pair counts for, `classes` all that want it; `score` is what the fusion went by;
    `evaluation_similarity` is the cosine of an image with the nearest evaluation image, NaN without
    any.

    Raises:
        RetrievalError: If no pair is left at all, naming the classes and why their candidates were
            dropped.
        InputError: If seed images are missing, or show evaluation images.
    """
    inputs = resolve(project, "retrieved_set", slug)
    parents, domain, settings = inputs.parents, project.domain(slug), project.retrieval(slug)
    embeddings, encoder = parents["corpus_embeddings"], parents[encoder_in(parents)]
    if settings.choose == "all":
        settings = settings.model_copy(update={"max_per_class": int(embeddings.counts["rows"])})
    seeds, prompts = read_seeds(project, slug), class_prompts(domain)

    def choose(directory: Path) -> tuple[ImageSource, dict[str, Any]]:
        clip = load_encoder(project, encoder)
        index = Index(
            parents["faiss_index"],
            encoder.fingerprint,
            embeddings=embeddings,
            device=project.config.device,
        )
        evaluation = kept_out(
            project, slug, parents["evaluation_set"], settings.decontaminate, clip
        )
        require_subjects(embeddings, evaluation)
        vectors = encode_seeds(project, slug, seeds, evaluation, clip)
        queries = Queries(prompts, seeds, vectors, len(prompt_templates(domain)))
        distributor = project.config.distributor
        found = find_candidates(
            clip, index, embeddings, queries, settings, directory / SEARCHED, distributor
        )
        source = open_source(project, parents["corpus"], directory / FETCHED)
        candidates = found.candidates
        if settings.choose == "diverse":
            candidates = diverse_order(
                candidates, partial(vectors_of, embeddings, "image"), settings.max_per_class
            )
        candidates = _described(candidates, embeddings, source, evaluation, distributor)
        examination = Examination(source, embeddings, settings, project.config.corpus.max_pixels)
        examination.choose(candidates, evaluation)
        classes = class_report(domain, queries, found.hits, candidates, settings)
        if not classes["kept"].any():
            raise RetrievalError(_nothing_found(slug, classes))
        names = count_names(domain, embeddings, distributor)
        names.to_parquet(directory / NAMES, index=False)
        said = names["name"] + " " + names["captions"].map("{:,}".format)
        classes["names"] = said.groupby(names["class_id"]).agg("; ".join)
        unnamed = unnamed_classes(names, embeddings, distributor)
        pairs = write_pairs(
            directory,
            _chosen(candidates, queries, domain, embeddings, source),
            source,
            shard_pairs=settings.shard_pairs,
            max_pixels=project.config.corpus.max_pixels,
        )
        starving = classes.loc[classes["kept"] < settings.min_per_class, "class"].tolist()
        counts: dict[str, Any] = {
            "pairs": len(pairs),
            "classes": int((classes["kept"] > 0).sum()),
            "starving": starving,
            "starving_fraction": len(starving) / len(classes),
            **(
                {}
                if unnamed is None
                else {"unnamed": list(unnamed), "near_names": list(unnamed.values())}
            ),
            "candidates": len(candidates),
            "several_classes": int((pairs["classes"].str.len() > 1).sum()),
            "dropped": {reason: int(classes[reason].sum()) for reason in DROP_REASONS},
            "shared": int(classes["several_classes"].sum()),
            "shortfall": int(classes["shortfall"].sum()),
            "search": found.search,
            "pairs_by_mode": {mode: int((pairs["mode"] == mode).sum()) for mode in settings.modes},
            "evaluation_images": len(evaluation.vectors),
            "evaluation_sets": dict(evaluation.sets),
            **examination.counts(),
        }
        similarity, sheets = similarity_report(domain, candidates), sheets_of(pairs)
        write_report(
            directory,
            domain.title or slug,
            classes,
            similarity,
            candidates,
            settings,
            counts,
            sheets,
        )
        return source, counts

    return project.store.build(inputs, resumable(choose), resumable=True)


def most_pairs(project: Project, slug: str, rows: int) -> int:
    """How many pairs of a corpus of so many rows a domain retrieves at most."""
    settings, domain = project.retrieval(slug), project.domain(slug)
    hits = len(prompt_templates(domain)) * settings.k_per_prompt * len(settings.modes)
    of_classes = (
        min(settings.max_per_class, hits * (1 + len(entry.synonyms))) for entry in domain.classes
    )
    most = rows if settings.choose == "all" else min(rows, sum(of_classes))
    return min(most, settings.max_pairs or most)


def _described(
    candidates: pd.DataFrame,
    embeddings: Artifact,
    source: ImageSource,
    evaluation: EvaluationImages,
    distributor: DistributorConfig,
) -> pd.DataFrame:
    """The candidates with what identifies equal images and evaluation images."""
    rows = candidates["row"].drop_duplicates()
    known = row_metadata(embeddings, rows, [source.identity, *evaluation.row_columns], arrow=True)
    known["evaluation_similarity"] = evaluation.similarity_of_rows(
        embeddings, rows.to_numpy(), distributor
    )
    described = candidates.join(known, on="row")
    return described if "image_sha256" in described else described.assign(image_sha256="")


def _chosen(
    candidates: pd.DataFrame,
    queries: Queries,
    domain: DomainConfig,
    embeddings: Artifact,
    source: ImageSource,
) -> pd.DataFrame:
    """The kept candidates by class, with everything that is published or needed to collect them."""
    pairs = candidates[candidates["dropped"] == ""].sort_values("class_id", kind="stable")
    names = pd.Series(domain.class_names)
    pairs = pairs.assign(
        **{
            "class": names[pairs["class_id"]].to_numpy(),
            "prompt": queries.texts[pairs["query"]].to_numpy(),
        }
    )
    pairs["classes"] = classes_of(candidates, domain.class_names)[pairs["row"]].to_numpy()
    more = [column for column in source.columns if column not in pairs]
    return pairs.join(row_metadata(embeddings, pairs["row"], more), on="row")


def _nothing_found(slug: str, classes: pd.DataFrame) -> str:
    named = ", ".join(classes["class"].head(20)) + (
        f" and {len(classes) - 20} more" if len(classes) > 20 else ""
    )
    reasons = ", ".join(
        f"{reason} {int(classes[reason].sum())}" for reason in DROP_REASONS if classes[reason].sum()
    )
    return (
        f"{slug}: no pair is left for any class ({named}); {int(classes['candidates'].sum())} "
        f"candidates were found, dropped: {reasons or 'none'}. Lower `min_similarity`, raise "
        "`k_per_prompt`, add synonyms, or use a corpus that shows these classes"
    )
