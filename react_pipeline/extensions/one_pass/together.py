"""One pass over the corpus for several domains: what each would read alone is read once for all
whose pairs are due.

The hits, and the counts of names, are kept in a scratch from which each domain's build resumes, as
if it had been killed after its search. So a pass that fails or is left out costs time, and changes
no byte of a retrieved set. The parts of a pass are in the scratch of the domain that began it, and
go with it. Does not belong here: the reading itself (`shared_reads`), choosing.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from react_pipeline.clip import class_prompts
from react_pipeline.corpus import open_source
from react_pipeline.embedding import Rows, Side
from react_pipeline.extensions.one_pass.shared_reads import (
    keep_counts,
    keep_metadata,
    keep_said,
    search_together,
)
from react_pipeline.indexing import Index, Search, way_of_index
from react_pipeline.labelled import encode_images
from react_pipeline.lineage import fresh_or_none, resolve
from react_pipeline.project import Manifests, Project
from react_pipeline.retrieval import (
    MODE_SIDES,
    SEARCH,
    Queries,
    encode_prompts,
    load_encoder,
    read_seeds,
)
from react_pipeline.settings import DomainConfig, RetrievalConfig, load_domains
from react_pipeline.stage import encoder_in
from react_pipeline.store import Inputs, ReactError, Scratch, Store, StoreWriteError

if TYPE_CHECKING:
    from react_pipeline.clip import Clip

logger = logging.getLogger(__name__)

PASS_COMPARISONS = 1.8e11
"""Comparisons of a prompt with a row in a pass, a core: about half an hour, for which the first
domain waits.
"""
MAX_QUERIES = 200_000
"""Queries of a pass: at 50 hits about 400 MB."""
MAX_ROWS = 2_000_000
"""Rows whose metadata is read in a pass: about 1 GB. Rows of further domains are read by each."""


DONE = "read-together"
"""Kept in the scratch of each domain that a pass has served."""


def passes_of(queries: int, rows: int, cores: int) -> int:
    """Return about how many passes serve domains with so many queries."""
    return max(1, math.ceil(queries / min(MAX_QUERIES, PASS_COMPARISONS * cores / max(rows, 1))))


@dataclass(frozen=True)
class _Member:
    """A domain whose pairs are due, and the scratch that its build resumes from."""

    inputs: Inputs
    domain: DomainConfig
    settings: RetrievalConfig
    queries: Queries
    scratch: Scratch

    @property
    def search_scratch(self) -> Scratch:
        """Where its build looks for what was searched."""
        return _below(self.scratch, SEARCH)


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
                _Pass(project, inputs).run()
            except (OSError, StoreWriteError) as error:
                logger.warning("%s: the corpus is read for %s alone", error, inputs.key)


def _is_served(store: Store, inputs: Inputs) -> bool:
    """Whether a domain's set is published, or a pass was made for it."""
    return inputs.fingerprint in store.versions(inputs.stage, inputs.key) or any(
        (scratch.folder / DONE).exists() for scratch in store.earlier_scratches(inputs)
    )


def _below(scratch: Scratch, name: str) -> Scratch:
    return Scratch(scratch.folder / name)


class _Pass:
    def __init__(self, project: Project, first: Inputs) -> None:
        self.project = project
        self.first = first
        self.embeddings = first.parents["corpus_embeddings"]
        self.encoder = first.parents[encoder_in(first.parents)]
        self.read = {
            name: parent.fingerprint
            for name, parent in first.parents.items()
            if name != "evaluation_set"
        }
        self.index = Index(
            first.parents["faiss_index"],
            self.encoder.fingerprint,
            embeddings=self.embeddings,
            device=project.config.device,
        )

    def run(self) -> None:
        """Leave the hits; a killed pass is resumed by the next one of the same domains."""
        members = list(self._members(load_encoder(self.project, self.encoder)))
        if len(members) > 1:
            logger.info("reading the corpus for %d domains at once", len(members))
            self._search(members, _below(members[0].scratch, "pass"))
            self._count_names(members)
        for member in members:
            member.scratch.keep(DONE, Path.touch)

    def _search(self, members: list[_Member], parts: Scratch) -> None:
        searches: dict[Side, list[Search]] = {}
        for member in members:
            k = member.settings.k_per_prompt
            for mode, vectors in member.queries.of_modes(member.settings).items():
                way, _ = way_of_index(self.index, member.settings.search, len(vectors))
                if way == "exact":
                    search = Search(vectors, k, member.search_scratch)
                    searches.setdefault(MODE_SIDES[mode], []).append(search)
        rows: dict[Scratch, Rows] = {}
        for side, of_side in searches.items():
            hits = search_together(self.index, side, of_side, _below(parts, side))
            for search, of_search in zip(of_side, hits, strict=True):
                others = rows.get(search.scratch, np.empty(0, np.int64))
                rows[search.scratch] = np.union1d(others, of_search["row"])
        found = {place: some[some >= 0] for place, some in rows.items()}
        self._read_rows(found)

    def _read_rows(self, rows: Mapping[Scratch, Rows]) -> None:
        """Leave the metadata of hits, of `MAX_ROWS` at most."""
        total = np.cumsum([len(some) for some in rows.values()])
        shared = dict(islice(rows.items(), int((total <= MAX_ROWS).sum())))
        if shared:
            source = open_source(self.project, self.first.parents["corpus"])
            columns = list(dict.fromkeys([source.identity, *source.columns]))
            keep_metadata(self.embeddings, list(shared.values()), columns, list(shared))

    def _count_names(self, members: list[_Member]) -> None:
        scratches = [member.search_scratch for member in members]
        domains = [member.domain for member in members]
        keep_counts(domains, scratches, self.embeddings)
        lexical = [member for member in members if "lexical" in member.settings.modes]
        keep_said(
            [member.queries.prompts for member in lexical],
            [member.search_scratch for member in lexical],
            self.embeddings,
        )

    def _members(self, clip: Clip) -> Iterator[_Member]:
        """The first domain, and as many others as a pass takes."""
        queries = 0
        most = self._most_queries()
        for inputs in self._due():
            try:
                settings = self.project.retrieval(inputs.key)
                domain = self.project.domain(inputs.key)
                prompts = class_prompts(domain)
                seeds = read_seeds(self.project, inputs.key)
            except ReactError:  # its own step says so
                continue
            queries += sum(len(seeds if mode == "i2i" else prompts) for mode in settings.modes)
            if inputs is not self.first and queries > most:
                return
            try:
                seed_vectors = encode_images(self.project.config, clip, seeds)
            except ReactError:
                continue
            scratch = self.project.store.scratch(inputs)
            vectors = encode_prompts(clip, prompts, _below(scratch, SEARCH))
            all_queries = Queries(prompts, vectors, seeds, seed_vectors)
            yield _Member(inputs, domain, settings, all_queries, scratch)

    def _most_queries(self) -> int:
        """Queries of a pass; a GPU is faster than the cores of this machine."""
        from react_pipeline.clip import choose_device

        if choose_device(self.project.config.device) != "cpu":
            return MAX_QUERIES
        cores = os.cpu_count() or 1
        return min(MAX_QUERIES, int(PASS_COMPARISONS * cores / self.index.rows))

    def _due(self) -> Iterator[Inputs]:
        """The inputs of the retrieved sets that could be built now, the first domain's first."""
        yield self.first
        look = Manifests.of(self.project)
        for slug in sorted(load_domains(self.project.config.domains)[0]):
            try:
                if slug == self.first.key or fresh_or_none(look, "retrieved_set", slug):
                    continue
                inputs = resolve(look, "retrieved_set", slug)
            except ReactError:
                continue
            others = {name: inputs.parents[name].fingerprint for name in self.read}
            if others == self.read and not _is_served(self.project.store, inputs):
                yield inputs
