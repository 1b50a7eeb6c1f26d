"""Names in captions: how many captions of the corpus say each name and synonym of a domain, the
classes that none names, and retrieval by words.

Names are counted since a model knows a class best by the one that captions use most, and mode
`lexical` retrieves by them (REAL, Parashar et al. 2024, arXiv 2401.12425). The pairs of an unnamed
class are whatever is nearest, so a misspelt name trains on images of something else. Shapes: Q
prompts, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from react_pipeline.embedding import Vectors, row_metadata
from react_pipeline.lineage import fresh
from react_pipeline.project import Project, cluster, spread
from react_pipeline.retrieval import likeness, mean_vectors
from react_pipeline.settings import DomainConfig, RetrievalConfig
from react_pipeline.store import Artifact, Scratch

NAMES = "names.parquet"
COUNTS, SAID = "names.npy", "said.npy"
"""Files of a scratch: the counts of names, and which captions say which names."""
_BATCH_ROWS, _TASK_ROWS = 65_536, 1_000_000
_MOST_LISTED = 10
"""Classes that a message lists."""
_WORDS_APART, _WORD = r"[^\pL\pM\pN]+", r"[\pL\pM\pN]"


def domain_names(project: Project, slug: str) -> pd.DataFrame:
    """Return the counts of a domain's names in the corpus, as `count_names`."""
    with cluster(project.config.distributor):
        return count_names(project.domain(slug), fresh(project, "corpus_embeddings"))


def count_names(
    domain: DomainConfig, embeddings: Artifact, scratch: Scratch | None = None
) -> pd.DataFrame:
    """Count all names of a domain in one scan of the captions, here or on a cluster.

    Args:
        scratch: Where the counts are kept, and may be already.

    Returns:
        Columns class_id, class (its label), name, captions (how many say it); a row a name, the
        first name first.
    """
    names = tabulate_names(domain)

    def count() -> NDArray[Any]:
        return count_in_corpus(embeddings, [names["name"].tolist()])[0]

    if scratch is None:
        return names.assign(captions=count())
    kept = scratch.keep(COUNTS, lambda path: np.save(path, count()))
    return names.assign(captions=np.load(kept))


def tabulate_names(domain: DomainConfig) -> pd.DataFrame:
    """Return columns class_id, class and name; a row a name, the first name of a class first."""
    classes = [(entry.label, [entry.name, *entry.synonyms]) for entry in domain.classes]
    names = pd.DataFrame(classes, columns=["class", "name"]).explode("name")
    return names.rename_axis("class_id").reset_index()


def count_naming(domain: DomainConfig, captions: Sequence[str | None]) -> int:
    """Return how many captions say a name of a class, as `said_in`."""
    words = split_words(pa.array(captions, pa.string(), from_pandas=True))
    return len(np.unique(said_in(words, list(tabulate_names(domain)["name"]))[0]))


def count_in_corpus(embeddings: Artifact, groups: Sequence[list[str]]) -> list[NDArray[Any]]:
    """Count the captions of a corpus that say each name (N,), for each group, as `said_in`."""
    return [np.sum(parts, axis=0) for parts in _read(_count_in_rows, embeddings, groups)]


def said_in_corpus(embeddings: Artifact, groups: Sequence[list[str]]) -> list[NDArray[Any]]:
    """Return numbers of captions and of names (2, n) of a corpus for each group, as `said_in`."""
    return [np.concatenate(parts, axis=1) for parts in _read(_said_in_rows, embeddings, groups)]


def _read(
    look: Callable[..., list[NDArray[Any]]], embeddings: Artifact, groups: Sequence[list[str]]
) -> Iterator[tuple[NDArray[Any], ...]]:
    """Return what a look at some captions finds, for each group from the first to the last."""
    rows = int(embeddings.counts["rows"])
    tasks = [(start, min(start + _TASK_ROWS, rows)) for start in range(0, rows, _TASK_ROWS)]
    return zip(*spread(partial(look, embeddings, groups), tasks, "looking for names"), strict=True)


def _count_in_rows(
    embeddings: Artifact, groups: Sequence[list[str]], rows: tuple[int, int]
) -> list[NDArray[Any]]:
    all_said = _said_in_rows(embeddings, groups, rows)
    return [_counts(said, names) for (_, said), names in zip(all_said, groups, strict=True)]


def _said_in_rows(
    embeddings: Artifact, groups: Sequence[list[str]], rows: tuple[int, int]
) -> list[NDArray[Any]]:
    captions = read_captions(embeddings, rows)
    batches = []
    for start in range(0, len(captions), _BATCH_ROWS):
        words = split_words(captions.slice(start, _BATCH_ROWS))
        offset = [[rows[0] + start], [0]]
        batches.append([np.stack(said_in(words, names)) + offset for names in groups])
    return [np.concatenate(of_group, axis=1) for of_group in zip(*batches, strict=True)]


def read_captions(embeddings: Artifact, rows: tuple[int, int]) -> pa.Array:
    """Return the captions from the first row number up to the second; some may be null."""
    captions = row_metadata(embeddings, np.arange(*rows), ["caption"])["caption"]
    return pa.array(captions.to_numpy(dtype=object), pa.string(), from_pandas=True)


def _counts(said: NDArray[Any], names: list[str]) -> NDArray[Any]:
    return np.bincount(said, minlength=len(names))[equal_names(names)]


def equal_names(names: list[str]) -> NDArray[Any]:
    """Return for each name the number of the first one with the same words (N,)."""
    texts = _join_words(names)
    return np.asarray(pc.index_in(texts, texts), np.int64)


def _join_words(names: list[str]) -> pa.Array:
    """Return the words of each name, a space between them."""
    split = split_words(pa.array(names, pa.string())).to_pylist()
    return pa.array([" ".join(filter(None, words)) for words in split], pa.string())


def said_in(words: pa.ListArray, names: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Find which captions say which names: numbers of captions and of names, each pair once; of
    names with equal words the first.

    A name is said where its words follow one another; case and punctuation do not matter. Within a
    longer name it is not: "a tiger shark" says neither `tiger` nor `shark`.

    Args:
        words: The words of each caption, from `split_words`; some may be null.
    """
    rows = pc.list_parent_indices(words).to_numpy().astype(np.int64)
    flat = words.flatten()
    texts = _join_words(names)
    distinct = texts.unique()
    split = [text.split() for text in distinct.to_pylist() if text]
    # Few words begin a name.
    firsts = pa.array([parts[0] for parts in split], pa.string())
    starts = np.flatnonzero(pc.is_in(flat, firsts))
    said = [np.empty((3, 0), np.int64)]
    for length in sorted(set(map(len, split))):
        starts = starts[starts + length <= len(flat)]
        starts = starts[rows[starts] == rows[starts + length - 1]]
        runs = pc.binary_join_element_wise(
            *(flat.take(starts + place) for place in range(length)), " "
        )
        text = pc.fill_null(pc.index_in(runs, distinct), -1).to_numpy()
        said.append(np.stack([starts, starts + length, text])[:, text >= 0])
    start, end, text = np.concatenate(said, axis=1)
    order = np.lexsort((-end, start))
    start, end, text = start[order], end[order], text[order]
    # What ends no later than one before it, which starts no later, is within that one.
    whole = np.append(True, end[1:] > np.maximum.accumulate(end)[:-1])[: len(end)]
    name = np.asarray(pc.index_in(distinct, texts), np.int64)[text[whole]]
    once = np.unique(rows[start[whole]] * len(texts) + name)
    return once // len(texts), once % len(texts)


def split_words(texts: pa.Array) -> pa.ListArray:
    """Return the words of each text in lower case; empty ones where it begins or ends otherwise."""
    return pc.split_pattern_regex(
        pc.utf8_lower(pc.utf8_normalize(texts, form="NFC")), pattern=_WORDS_APART
    )


def named_prompts(prompts: pd.DataFrame) -> pd.DataFrame:
    """Return the first prompt of each name of a class."""
    return prompts[prompts["name"] != ""].drop_duplicates(["class_id", "name"])


def lexical_hits(
    embeddings: Artifact,
    prompts: pd.DataFrame,
    vectors: Vectors,
    settings: RetrievalConfig,
    scratch: Scratch,
) -> pd.DataFrame:
    """Return the hits of mode `lexical`: captions that say a name of a class, nearest to the mean
    of its prompts first; `k_per_prompt` for each prompt.

    Args:
        prompts: From `prompts.class_prompts`.
        vectors: Of the prompts (Q, D).
        scratch: Where the captions that say names are kept, and may be already.

    Returns:
        Columns query (the first prompt of the name that is said), row, similarity, rank, mode,
        class_id.
    """
    named = named_prompts(prompts)
    names = named["name"].tolist()

    def write(path: Path) -> None:
        np.save(path, said_in_corpus(embeddings, [names])[0])

    rows, said = np.load(scratch.keep(SAID, write))
    queries = named.assign(query=named.index, said=equal_names(names))[
        ["query", "class_id", "said"]
    ]
    hits = pd.DataFrame({"row": rows, "said": said}).merge(queries, on="said")
    hits = hits.sort_values("query", kind="stable").drop_duplicates(["class_id", "row"])
    means = mean_vectors(prompts["class_id"], vectors)
    hits["similarity"] = likeness(embeddings, hits, means, side="text")
    hits = hits.iloc[np.lexsort((hits["row"], -hits["similarity"]))]
    hits["rank"] = hits.groupby("class_id").cumcount()
    most = settings.k_per_prompt * prompts.groupby("class_id").size()
    hits = hits[hits["rank"] < hits["class_id"].map(most)]
    mode = np.full(len(hits), settings.modes.index("lexical"), np.int8)
    return hits.drop(columns="said").assign(
        mode=pd.Categorical.from_codes(mode, list(settings.modes))
    )


def describe_classes(
    domain: DomainConfig,
    embeddings: Artifact,
    classes: pd.DataFrame,
    directory: Path,
    scratch: Scratch,
) -> tuple[dict[str, Any], str]:
    """Write how many captions say each name into a directory, and into the table of classes.

    Returns:
        Counts for the manifest, and a warning of classes that no caption names, or "".
    """
    names = count_names(domain, embeddings, scratch)
    names.to_parquet(directory / NAMES, index=False)
    texts = names["name"] + " " + names["captions"].map("{:,}".format)
    classes["names"] = texts.groupby(names["class_id"]).agg("; ".join)
    unnamed = unnamed_classes(names, embeddings)
    if unnamed is None:
        return {}, ""
    return {"unnamed": unnamed}, unnamed_message(unnamed) if unnamed else ""


def unnamed_classes(names: pd.DataFrame, embeddings: Artifact) -> list[str] | None:
    """Return the labels of the classes that no caption names; None if the corpus has no captions.

    Args:
        names: From `count_names`.
    """
    is_said = _are_said(names).groupby(names["class_id"]).transform("any")
    unnamed: list[str] = names[~is_said].drop_duplicates("class_id")["class"].tolist()
    if not is_said.any():
        captions = read_captions(embeddings, (0, min(int(embeddings.counts["rows"]), _TASK_ROWS)))
        if not pc.any(pc.match_substring_regex(captions, _WORD)).as_py():
            return None
    return unnamed


def unnamed_message(unnamed: Sequence[str]) -> str:
    """Return one sentence for people."""
    more = f" and {len(unnamed) - _MOST_LISTED:,} more" if len(unnamed) > _MOST_LISTED else ""
    return (
        f"no caption of the corpus says {', '.join(unnamed[:_MOST_LISTED])}{more}: such a class is "
        "trained on whatever is nearest; correct its name, or add a synonym that captions use"
    )


def _are_said(names: pd.DataFrame) -> pd.Series:
    """Return whether captions say each name: `count_names` leaves out `bear` in "a polar bear" if
    that is a name too.
    """
    texts = pd.Series(_join_words(names["name"].tolist()).to_pylist(), names.index)
    all_texts = "\n".join(" " + texts[names["captions"] > 0] + " ")
    return texts.map(lambda text: f" {text} " in all_texts)
