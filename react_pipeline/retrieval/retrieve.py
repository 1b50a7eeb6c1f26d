"""Retrieval: which pairs of the corpus a domain is customized on.

Queries (`queries`, `own_images`) are searched, their hits become one list (`fusion`) that is ranked
(`ranking`, `review`, `images`), and what is kept is collected (`chosen_pairs`).

Follows REACT (Liu et al. 2023, arXiv 2301.07094): every template x every name is a query of its
own, k counts per prompt, T2T searches captions and T2I images. Added to it: I2I from seed images,
fusion of the modes, no duplicates and no near duplicates, no evaluation images, a cap, a
similarity floor, all classes of a pair, and a report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.clip import prompt_templates
from react_pipeline.embedding import sides
from react_pipeline.indexing import Index
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, cluster
from react_pipeline.retrieval.chosen_pairs import class_report, write_pairs, write_report
from react_pipeline.retrieval.decontamination import KeptOut, read_kept_out, require_subjects
from react_pipeline.retrieval.fusion import apply_filter, fuse, likeness
from react_pipeline.retrieval.images import Images, load_encoder
from react_pipeline.retrieval.own_images import encode_apart, read_seeds
from react_pipeline.retrieval.queries import SEARCH, Queries, encode_queries, find_hits
from react_pipeline.retrieval.ranking import DROP_REASONS, choose, join_classes
from react_pipeline.retrieval.review import (
    refuse_rows,
    rejected_images,
    require_none_taken_down,
)
from react_pipeline.settings import RetrievalConfig
from react_pipeline.stage import (
    CORPUS_EMBEDDINGS,
    EVALUATION_SET,
    FAISS_INDEX,
    RETRIEVED_SET,
    encoder_in,
)
from react_pipeline.store import Artifact, RetrievalError, Scratch


def retrieve_pairs(project: Project, slug: str) -> Artifact:
    """Publish the pairs of the corpus that a domain's class names find, collected into training
    shards.

    Starving classes are recorded in the counts (`starving`, `starving_fraction`), not refused here:
    the blocking check and `customize` refuse to train on too many of them.

    Files: `pairs.parquet`, `shards/`, `image_vectors.npy` and `text_vectors.npy` (in the order of
    the shards), `contact_sheet.png`, and the report: `classes.parquet` (per class: prompts, seeds,
    candidates, kept, pairs kept for another class, one column a reason of dropping, shortfall of
    the search), `similarity.png`, `report.md`.
    In `pairs.parquet`, `class` is the class that a pair counts for, `classes` all that want it;
    `score` is what the fusion went by; `evaluation_similarity` is the cosine of an image with the
    nearest evaluation image, NaN without any.

    A killed build leaves the images that were fetched and the hits of a search, and the next
    one continues with these.

    Raises:
        RetrievalError: If no pair is left at all, naming the classes and why their candidates were
            dropped.
        InputError: If seed images are missing, or show evaluation images.
    """
    from react_pipeline.extensions.cluster import read_together

    inputs = resolve(project, RETRIEVED_SET, slug)
    with cluster(project.config.distributor):
        read_together(project, inputs)  # for other domains that are due, too

        def write(directory: Path, scratch: Scratch) -> dict[str, Any]:
            return _retrieve(project, slug, inputs.parents, directory, scratch)

        return project.store.build(inputs, write)


def _retrieve(
    project: Project, slug: str, parents: Mapping[str, Artifact], directory: Path, scratch: Scratch
) -> dict[str, Any]:
    """Ask, search, rank, collect and report; return the counts."""
    from react_pipeline.extensions.names import describe_classes

    started = time.monotonic()
    scratch = Scratch(scratch.folder / SEARCH)
    domain, embeddings = project.domain(slug), parents[CORPUS_EMBEDDINGS]
    encoder = parents[encoder_in(parents)]
    settings = project.retrieval(slug)
    if settings.takes_all:  # all pairs, or each prompt's nearest: a class has no cap
        rows = int(embeddings.counts["rows"])
        settings = settings.model_copy(update={"max_per_class": rows})
    clip = load_encoder(project, encoder)
    kept_out = read_kept_out(project, slug, parents[EVALUATION_SET], clip)
    kept_out = replace(kept_out, refused=kept_out.refused | rejected_images(project, slug))
    require_subjects(embeddings, kept_out)
    images = Images(project, parents, clip)

    seeds = read_seeds(project, slug)
    seed_vectors = encode_apart(project, seeds, kept_out, clip, f"{slug}.yaml, classes.seeds")
    queries = encode_queries(clip, domain, seeds, seed_vectors, scratch)
    index = Index(parents[FAISS_INDEX], encoder.fingerprint, project.config.device)
    hits, searches = find_hits(index, embeddings, queries, settings, scratch)
    candidates = _rank(hits, queries, settings, images, kept_out)
    classes = class_report(domain, queries, hits, candidates, settings)
    images.require(slug)
    if not classes["kept"].any():
        raise RetrievalError(_nothing_found(slug, classes))
    named, warning = describe_classes(domain, embeddings, classes, directory, scratch)
    pairs = _kept_pairs(domain.class_names, candidates, queries)
    pairs = write_pairs(directory, pairs, images, settings)
    require_none_taken_down(project, images, kept_out, pairs)

    counts = _count_pairs(pairs, classes, candidates, settings)
    counts |= {
        **named,
        "search": searches,
        "evaluation_images": len(kept_out.vectors),
        "evaluation_sets": dict(kept_out.sets),
        **images.counts(),
        "seconds": round(time.monotonic() - started, 2),
    }
    warnings = [warning] if warning else []
    if settings.same_subject == "exclude" and not kept_out.subjects:
        warnings.append(
            "same_subject: exclude keeps no pair out, because no evaluation image names a subject "
            "(a manifest may, in its column subject)"
        )
    title = domain.title or slug
    write_report(directory, title, classes, candidates, settings, counts, "; ".join(warnings))
    return counts


def _rank(
    hits: pd.DataFrame,
    queries: Queries,
    settings: RetrievalConfig,
    images: Images,
    kept_out: KeptOut,
) -> pd.DataFrame:
    """Return the candidates, each kept or dropped for one reason."""
    candidates = fuse(hits, settings)
    means = queries.means() if settings.filters else None
    if means is not None and "image" in sides(images.embeddings):
        like = likeness(images.embeddings, candidates, means)
        candidates, means = apply_filter(candidates, like, settings), None
    candidates = refuse_rows(candidates, images, kept_out, settings.where)
    choose(candidates, images, kept_out, settings, means)
    return candidates


def _kept_pairs(names: Sequence[str], candidates: pd.DataFrame, queries: Queries) -> pd.DataFrame:
    """Return the kept candidates by class, for `write_pairs`."""
    pairs = candidates[candidates["dropped"] == ""].sort_values("class_id", kind="stable")
    pairs["class"] = pd.Series(names)[pairs["class_id"]].to_numpy()
    pairs["prompt"] = queries.texts[pairs["query"]].to_numpy()
    pairs["classes"] = join_classes(candidates, names)[pairs["row"]].to_numpy()
    return pairs


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
    """Return how many pairs of a corpus of so many rows a domain retrieves at most."""
    settings = project.retrieval(slug)
    domain = project.domain(slug)
    hits = len(prompt_templates(domain)) * settings.k_per_prompt * len(settings.modes)
    cap = rows if settings.takes_all else settings.max_per_class
    of_classes = sum(min(cap, hits * (1 + len(entry.synonyms))) for entry in domain.classes)
    most = rows if settings.choose == "all" else min(rows, of_classes)
    return min(most, settings.max_pairs or most)


def _nothing_found(slug: str, classes: pd.DataFrame) -> str:
    totals = classes[["candidates", *DROP_REASONS]].sum()
    dropped = [f"{reason} {totals[reason]}" for reason in DROP_REASONS if totals[reason]]
    relax = "Relax `where`, lower" if totals["filtered"] else "Lower"
    return (
        f"{slug}: no pair is left for any class ({', '.join(classes['class'].head(20))}); "
        f"{totals['candidates']} candidates were found, dropped: {', '.join(dropped) or 'none'}. "
        f"{relax} `min_similarity`, raise `k_per_prompt`, add synonyms, or use a corpus that shows "
        "these classes"
    )
