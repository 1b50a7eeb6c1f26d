"""Names in captions: how many captions of the corpus say each name and synonym of a domain.

Belongs here: counting, and keeping the counts. Does not belong here: writing another name into a domain file
(`commands.domain_names`).

A model knows a class best by the name that its training captions use most (REAL, Parashar et al. 2024, arXiv
2401.12425). A name counts where its words follow one another as whole words; case and punctuation do not matter. Within
a longer name of the same domain it does not count: "a tiger shark" says `tiger shark`, not `tiger` nor `shark`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.embedding import row_metadata
from react_pipeline.lineage import fresh
from react_pipeline.project import Project, spread
from react_pipeline.settings import DistributorConfig, DomainConfig
from react_pipeline.store import Artifact

NAMES = "names.parquet"
_BATCH_ROWS, _TASK_ROWS = 65_536, 1_000_000


def domain_names(project: Project, slug: str) -> pd.DataFrame:
    """The counts of a domain's names, as `count_names`: kept ones of its retrieved set, or else counted now.

    Kept ones hold while the captions and the set of names are the same; which name comes first does not matter.

    Raises:
        InputError: If there is no such domain.
        MissingArtifact: If the corpus is not embedded yet.
        StaleArtifact: If its embeddings are not of today's inputs.
    """
    embeddings, names = fresh(project, "corpus_embeddings"), _names_of(project.domain(slug))
    if project.store.has("retrieved_set", slug):
        artifact = project.store.current("retrieved_set", slug)
        same = artifact.parents.get("corpus_embeddings") == embeddings.fingerprint
        if same and NAMES in artifact.manifest["files"]:
            kept = pd.read_parquet(artifact.file(NAMES)).drop(columns="class")
            known = names.merge(kept, how="outer", on=["class_id", "name"], indicator=True)
            if (known["_merge"] == "both").all():
                return names.merge(kept, on=["class_id", "name"])
    return count_names(project.domain(slug), embeddings, project.config.distributor)


def count_names(domain: DomainConfig, embeddings: Artifact, distributor: DistributorConfig) -> pd.DataFrame:
    """Count all names of a domain in one scan of the captions, here or on a cluster.

    Returns:
        Columns class_id, class (its first name), name, captions (how many say it); a row a name, in the order of
        classes, the first name first.
    """
    names, rows = _names_of(domain), int(embeddings.counts["rows"])
    task = CountTask(embeddings, tuple(names["name"]))
    items = [(start, min(start + _TASK_ROWS, rows)) for start in range(0, rows, _TASK_ROWS)]
    counts = spread(task, items, distributor, "counting names in captions")
    return names.assign(captions=np.sum(counts, axis=0, dtype=np.int64) if counts else 0)


def most_frequent(names: pd.DataFrame) -> dict[int, str]:
    """Class id -> the name that most captions say; the earlier one of the domain file where several do."""
    best: dict[int, str] = names.loc[names.groupby("class_id")["captions"].idxmax()].set_index("class_id")["name"]
    return dict(best)


def _names_of(domain: DomainConfig) -> pd.DataFrame:
    rows = [
        (class_id, entry.name, name)
        for class_id, entry in enumerate(domain.classes)
        for name in (entry.name, *entry.synonyms)
    ]
    return pd.DataFrame(rows, columns=["class_id", "class", "name"])


@dataclass(frozen=True)
class CountTask:
    """Counts the captions of some rows that say each of N names; of one item, the first row and the end."""

    embeddings: Artifact
    names: tuple[str, ...]

    def __call__(self, item: tuple[int, int]) -> NDArray[np.int64]:
        """The numbers (N,)."""
        found = row_metadata(self.embeddings, np.arange(*item), ["caption"], arrow=True)
        captions = pa.Table.from_pandas(found, preserve_index=False)["caption"].cast(pa.string()).combine_chunks()
        starts = range(0, len(captions), _BATCH_ROWS)
        return np.sum([self.count(captions.slice(at, _BATCH_ROWS)) for at in starts], axis=0, dtype=np.int64)

    def count(self, captions: pa.Array) -> NDArray[np.int64]:
        """How many of the captions, of which some may be null, say each name (N,)."""
        tree = self._tree
        words = _words(captions)
        rows = pc.list_parent_indices(words).to_numpy()
        codes = pc.fill_null(pc.index_in(words.flatten(), tree.words), -1).to_numpy().astype(np.int64)
        first = np.flatnonzero(codes >= 0)
        nodes, found = np.zeros(len(first), np.int64), [np.empty((3, 0), np.int64)]
        for length in range(1, tree.longest + 1):
            at = first + length - 1
            inside = at < len(codes)
            inside[inside] = (rows[at[inside]] == rows[first[inside]]) & (codes[at[inside]] >= 0)
            first, at, nodes = first[inside], at[inside], nodes[inside]
            steps = nodes * len(tree.words) + codes[at]
            place = np.searchsorted(tree.steps, steps).clip(max=len(tree.steps) - 1)
            follows = tree.steps[place] == steps
            first, nodes = first[follows], tree.nodes[place[follows]]
            found.append(np.stack([first, first + length, nodes])[:, np.isin(nodes, tree.ends)])
        start, end, node = np.concatenate(found, axis=1)
        order = np.lexsort((-end, start))
        start, end, node = start[order], end[order], node[order]
        # After one that starts no later and ends no earlier, a name is part of that longer one.
        whole = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])[: len(end)]
        said = np.unique(rows[start[whole]].astype(np.int64) * (len(tree.nodes) + 1) + node[whole])
        return np.bincount(said % (len(tree.nodes) + 1), minlength=len(tree.nodes) + 1)[tree.ends]

    @cached_property
    def _tree(self) -> _Tree:
        return _Tree(self.names)


class _Tree:
    """The names as paths of words from node 0; what follows a node is looked up for many captions at once.

    Attributes:
        words: The distinct words (W,).
        steps: Node * W + code of the next word, ascending.
        nodes: The node that each of `steps` leads to.
        ends: The node where each name ends; 0 for one without any letter or digit.
        longest: Words of the longest name.
    """

    def __init__(self, names: Sequence[str]) -> None:
        split = [[word for word in words if word] for words in _words(pa.array(names, pa.string())).to_pylist()]
        codes = {word: code for code, word in enumerate(sorted({word for words in split for word in words}))}
        steps: dict[int, int] = {}
        ends = []
        for words in split:
            node = 0
            for word in words:
                node = steps.setdefault(node * len(codes) + codes[word], len(steps) + 1)
            ends.append(node)
        self.words = pa.array(list(codes), pa.string())
        self.steps = np.array(sorted(steps), np.int64)
        self.nodes = np.array([steps[step] for step in sorted(steps)], np.int64)
        self.ends, self.longest = np.array(ends, np.int64), max(map(len, split), default=0)


def _words(texts: pa.Array) -> pa.ListArray:
    lower = pc.utf8_lower(pc.utf8_normalize(texts, form="NFC"))
    return pc.split_pattern_regex(lower, pattern=r"[^\pL\pM\pN]+")
