"""One pass over the corpus for several domains: what each would read alone is read once for all
whose pairs are due.

The hits, and the counts of names, are kept in a scratch from which each domain's build resumes, as
if it had been killed after its search. So a pass that fails or is left out costs time, and changes
no byte of a retrieved set. What a pass keeps for itself is in the scratch of the domain that began
it, and goes with it. Does not belong here: searching (`indexing`), counting names (`names`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from react_pipeline.clip import class_prompts
from react_pipeline.embedding import Side, Vectors
from react_pipeline.extensions.names import (
    COUNTS,
    SAID,
    count_in_corpus,
    named_prompts,
    said_in_corpus,
    tabulate_names,
)
from react_pipeline.indexing import Index, exact_hits_in
from react_pipeline.labelled import encode_images
from react_pipeline.lineage import fresh_or_none, resolve
from react_pipeline.project import Manifests, Project
from react_pipeline.retrieval import (
    MODE_SIDES,
    SEARCH,
    encode_queries,
    index_modes,
    load_encoder,
    read_seeds,
)
from react_pipeline.settings import DomainConfig, RetrievalConfig, load_domains
from react_pipeline.stage import encoder_in
from react_pipeline.store import Inputs, ReactError, Scratch, Store, StoreWriteError

if TYPE_CHECKING:
    from react_pipeline.clip import Clip
    from react_pipeline.retrieval import Queries

logger = logging.getLogger(__name__)

PASS_COMPARISONS = 1.8e11
"""Comparisons of a prompt with a row in a pass, a core: about half an hour, for which the first
domain waits.
"""
MAX_QUERIES = 200_000
"""Queries of a pass: at 50 hits about 400 MB."""


class _Member(NamedTuple):
    """A domain whose pairs are due, and the scratch where its build looks for what was searched."""

    domain: DomainConfig
    settings: RetrievalConfig
    queries: Queries
    search: Scratch


def read_together(project: Project, inputs: Inputs) -> None:
    """Read the corpus for a domain, and for others whose retrieved set could be built now.

    Processes do this one after another: each then finds what an earlier one has left for it.

    Args:
        inputs: Of the domain's retrieved set.
    """
    store = project.store
    if _is_served(store, inputs):
        return
    with store.locked("corpus-pass") as is_ours:
        if is_ours and not _is_served(store, inputs):
            try:
                _run(project, inputs)
            except (OSError, StoreWriteError) as error:
                logger.warning("%s: the corpus is read for %s alone", error, inputs.key)


def _is_served(store: Store, inputs: Inputs) -> bool:
    """Whether a domain's set is published, or a pass was made for it."""
    scratches = store.earlier_scratches(inputs)
    return inputs.fingerprint in store.versions(inputs.stage, inputs.key) or any(
        (scratch.folder / SEARCH / COUNTS).exists() for scratch in scratches
    )


def _run(project: Project, first: Inputs) -> None:
    """Leave the hits; a killed pass is resumed by the next one of the same domains."""
    parents = first.parents
    embeddings, encoder = parents["corpus_embeddings"], parents[encoder_in(parents)]
    index = Index(parents["faiss_index"], encoder.fingerprint, project.config.device)
    rows = int(embeddings.counts["rows"])
    members = list(_members(project, first, load_encoder(project, encoder), rows))
    if not members:
        return
    logger.info("domains that the corpus is read for at once: %d", len(members))
    for side in ("image", "text"):
        _search(members, index, side, Scratch(members[0].search.folder / "pass"))
    lexical = [member for member in members if "lexical" in member.settings.modes]
    groups = [named_prompts(one.queries.prompts)["name"].tolist() for one in lexical]
    _leave(lexical, SAID, said_in_corpus(embeddings, groups) if groups else [])
    # Last: they say that a pass was made for a domain.
    groups = [tabulate_names(member.domain)["name"].tolist() for member in members]
    _leave(members, COUNTS, count_in_corpus(embeddings, groups))


def _search(members: list[_Member], index: Index, side: Side, scratch: Scratch) -> None:
    """Compare the vectors of a side once with the queries of all domains that search it exactly.

    Hits of a query do not depend on the others (`indexing.search`).
    """
    searches: list[tuple[_Member, Vectors]] = []
    for member in members:
        for mode in index_modes(member.settings):
            vectors = member.queries.vectors[member.queries.numbers(mode)]
            way, _ = index.choose_way(member.settings.search, len(vectors))
            if MODE_SIDES[mode] == side and way == "exact":
                k = min(member.settings.k_per_prompt, index.rows)
                searches.append((member, index.checked(vectors)))
    if not searches:
        return
    most = min(max(member.settings.k_per_prompt for member, _ in searches), index.rows)
    every = np.concatenate([vectors for _, vectors in searches])
    similarities, rows = exact_hits_in(scratch, index, side, every, most)
    start = 0
    for member, vectors in searches:
        k = min(member.settings.k_per_prompt, index.rows)
        part = slice(start, start := start + len(vectors))
        found = similarities[part, :k], rows[part, :k]
        exact_hits_in(member.search, index, side, vectors, k, found)


def _leave(members: list[_Member], name: str, arrays: list[NDArray[Any]]) -> None:
    """Leave each domain its own of what was read for all."""
    for member, array in zip(members, arrays, strict=True):
        member.search.keep(name, partial(np.save, arr=array))


def _members(project: Project, first: Inputs, clip: Clip, rows: int) -> Iterator[_Member]:
    """Yield the first domain, and as many others as a pass takes."""
    queries, most = 0, MAX_QUERIES
    if clip.device == "cpu":
        most = min(most, int(PASS_COMPARISONS * (os.cpu_count() or 1) / rows))
    for inputs in _due(project, first):
        try:
            settings = project.retrieval(inputs.key)
            domain = project.domain(inputs.key)
            prompts, seeds = len(class_prompts(domain)), read_seeds(project, inputs.key)
            queries += sum(len(seeds) if mode == "i2i" else prompts for mode in settings.modes)
            if inputs is not first and queries > most:
                return
            seed_vectors = encode_images(project.config, clip, seeds)
        except ReactError:  # its own step says so
            continue
        search = Scratch(project.store.scratch(inputs).folder / SEARCH)
        asked = encode_queries(clip, domain, seeds, seed_vectors, search)
        yield _Member(domain, settings, asked, search)


def _due(project: Project, first: Inputs) -> Iterator[Inputs]:
    """Yield the inputs of the retrieved sets that could be built now, the first domain's first."""
    yield first
    look = Manifests.of(project)
    read = {name: parent.fingerprint for name, parent in first.parents.items()}
    read.pop("evaluation_set", None)
    for slug in sorted(load_domains(project.config.domains)[0]):
        try:
            if slug == first.key or fresh_or_none(look, "retrieved_set", slug):
                continue
            inputs = resolve(look, "retrieved_set", slug)
        except ReactError:
            continue
        others = {name: inputs.parents[name].fingerprint for name in read}
        if others == read and not _is_served(project.store, inputs):
            yield inputs
