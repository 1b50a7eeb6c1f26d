"""The FAISS index over the corpus: one over image vectors, one over caption vectors, and searching them.

Belongs here: choosing and building the index, measuring its recall, searching. Does not belong here: what is searched
for and what becomes of the hits (`retrieve`). Vectors are unit rows; similarity is their inner product, the cosine.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from react_pipeline.artifacts import Artifact
from react_pipeline.config import IndexConfig
from react_pipeline.errors import CorruptArtifact, InputError
from react_pipeline.lineage import Project, resolve
from react_pipeline.vectors import Side, read_metadata, vector_files

SIDES: tuple[Side, ...] = ("image", "text")
RECALL_DEPTH = 10
LARGE_KEY = "HNSW32"
"""What `auto` takes above `exact_below` rows."""
TRAINING_POINTS_PER_CELL = 39
"""FAISS warns of poor cells below this (its `ClusteringParameters.min_points_per_centroid`)."""

_TARGET_RECALL = 0.95
_PARAMETERS = {"IVF": ("nprobe", 8), "HNSW": ("efSearch", 64)}
"""What trades speed for recall in each family of keys, and where the search for its value starts."""

Vectors = npt.NDArray[np.float32]


def build_index(project: Project) -> Artifact:
    """Publish the artifact `faiss_index`: `image.index` and `text.index`, rows numbered as in the embeddings.

    Small corpora are searched exactly. For others autofaiss builds the configured key, and nprobe or efSearch is
    doubled until recall@10 reaches 0.95, measured with other queries than those of the recorded figure. A corpus too
    small for an IVF key falls back to exact search; `reason` in the counts says so.

    Raises:
        InputError: If a vector is not finite or not of unit length: FAISS would never find it, without a word.
    """
    inputs = resolve(project, "faiss_index")
    embeddings = inputs.parents["corpus_embeddings"]
    return project.store.build(inputs, lambda staging: _build(project.config.index, embeddings, staging))


def choose_key(config: IndexConfig, rows: int) -> tuple[str, str]:
    """The key to build for so many rows (`Flat` is exact), and why it is that one."""
    if config.key == "Flat":
        return "Flat", "configured"
    if config.key == "auto":
        if rows <= config.exact_below:
            return "Flat", f"{rows:,} rows are at most exact_below ({config.exact_below:,})"
        return LARGE_KEY, f"{rows:,} rows are more than exact_below ({config.exact_below:,})"
    cells = re.match(r"IVF(\d+)", config.key)
    if cells and rows < TRAINING_POINTS_PER_CELL * int(cells[1]):
        needed = TRAINING_POINTS_PER_CELL * int(cells[1])
        return "Flat", f"{config.key} needs {needed:,} rows to train its cells, there are {rows:,}: exact instead"
    return config.key, "configured"


def open_index(artifact: Artifact, encoder: str | None = None) -> Index:
    """Open a published index.

    Args:
        artifact: The `faiss_index`.
        encoder: Fingerprint of the checkpoint that makes the queries, if it is to be checked.

    Raises:
        InputError: If the index was built with another encoder.
    """
    built_with = artifact.counts["encoder"]
    if encoder is not None and encoder != built_with:
        raise InputError(
            f"`faiss_index` {artifact.fingerprint} holds vectors of the encoder {built_with}, and the queries come "
            f"from {encoder}: their similarities mean nothing; rematerialize `corpus_embeddings` and `faiss_index`"
        )
    return Index(artifact)


class Index:
    """An opened index; each side is read from disk when it is first searched."""

    def __init__(self, artifact: Artifact) -> None:
        """Take a verified artifact."""
        self.artifact = artifact
        self.rows = int(artifact.counts["rows"])
        self.dimension = int(artifact.counts["dimension"])
        self._sides: dict[Side, Any] = {}

    def search(self, side: Side, queries: Vectors, k: int) -> pd.DataFrame:
        """Find the k most similar rows for each query.

        Args:
            side: Search among `image` or `text` vectors.
            queries: Unit rows (Q, D).
            k: Hits wanted per query; fewer come back where the index holds or finds fewer.

        Returns:
            Columns query, row (int64), similarity (float32), rank (int64, from 0); by query, best first. FAISS pads
            missing hits with row -1; these are dropped.

        Raises:
            InputError: If the queries are of another dimension than the index, or not finite, or k is below 1.
            CorruptArtifact: If the index cannot be read.
        """
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(
                f"queries of shape {queries.shape} do not fit `faiss_index` {self.artifact.fingerprint}, whose vectors "
                f"have {self.dimension} dimensions: queries and corpus must come from one encoder"
            )
        if not np.isfinite(queries).all():
            raise InputError("a query holds NaN or infinity; check the checkpoint that encoded it")
        if k < 1:
            raise InputError(f"k is {k}; at least 1 hit per query must be asked for")
        similarities, rows = self._side(side).search(queries, min(k, self.rows))
        query, rank = np.nonzero(rows >= 0)
        found = {"query": query, "row": rows[query, rank], "similarity": similarities[query, rank], "rank": rank}
        return pd.DataFrame(found)

    def _side(self, side: Side) -> Any:
        if side not in self._sides:
            path = self.artifact.file(f"{side}.index")
            index = _read(path, self.artifact)
            if (index.ntotal, index.d) != (self.rows, self.dimension):
                raise CorruptArtifact(
                    f"{path}: {index.ntotal:,} rows of {index.d} dimensions, its manifest says {self.rows:,} of "
                    f"{self.dimension}; rematerialize `faiss_index`"
                )
            if parameters := self.artifact.counts["parameters"].get(side):
                _set_parameters(index, parameters)
            self._sides[side] = index
        return self._sides[side]


def _build(config: IndexConfig, embeddings: Artifact, staging: Path) -> dict[str, Any]:
    import faiss

    started = time.perf_counter()
    rows, dimension = int(embeddings.counts["rows"]), int(embeddings.counts["dimension"])
    key, reason = choose_key(config, rows)
    recalls: dict[str, float] = {}
    parameters: dict[str, str] = {}
    queries = _queries(embeddings, 2 * config.recall_queries)
    for side in SIDES:
        _check_rows(embeddings, side, rows)
        path = staging / f"{side}.index"
        if key == "Flat":
            index = faiss.IndexFlatIP(dimension)
            for vectors in _chunks(embeddings, side):
                index.add(vectors)
        else:
            index = _autofaiss(embeddings, side, key, path)
            parameters[side] = _tune(index, key, queries[1::2], _tenth_best(embeddings, side, queries[1::2]), rows)
        faiss.write_index(index, str(path))
        recalls[side] = _recall(index, queries[::2], _tenth_best(embeddings, side, queries[::2]))
    return {
        "rows": rows,
        "dimension": dimension,
        "encoder": embeddings.parents["base_checkpoint"],
        "key": key,
        "exact": key == "Flat",
        "reason": reason,
        "parameters": parameters,
        "recall_at_10": recalls,
        "recall_queries": len(queries[::2]),
        "seconds": round(time.perf_counter() - started, 2),
        "bytes": sum((staging / f"{side}.index").stat().st_size for side in SIDES),
    }


def _chunks(embeddings: Artifact, side: Side) -> Iterator[Vectors]:
    # File by file: all vectors of a large corpus need not fit into memory beside the index.
    for path in vector_files(embeddings, side):
        yield np.load(path, allow_pickle=False).astype(np.float32)


def _check_rows(embeddings: Artifact, side: Side, rows: int) -> None:
    counted = 0
    for path in vector_files(embeddings, side):
        vectors = np.load(path, allow_pickle=False).astype(np.float32)
        norms = np.linalg.norm(vectors, axis=1)
        wrong = np.flatnonzero(~(np.abs(norms - 1) < 0.01))
        if len(wrong):
            key = read_metadata(embeddings, ["image_path"])["image_path"].iloc[counted + int(wrong[0])]
            raise InputError(
                f"{path}: row {wrong[0]} (key {key!r}) has length {norms[wrong[0]]}, not 1, so a search could "
                "never rank it; rematerialize `corpus_embeddings`"
            )
        counted += len(vectors)
    if counted != rows:
        raise CorruptArtifact(f"{embeddings.path}: {counted:,} {side} vectors, its manifest says {rows:,}")


def _autofaiss(embeddings: Artifact, side: Side, key: str, path: Path) -> Any:
    import faiss
    from autofaiss import build_index as build

    folder = vector_files(embeddings, side)[0].parent
    memory_gib = max(1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30)
    # autofaiss and its reader draw progress bars and log whatever they are told.
    with contextlib.redirect_stderr(io.StringIO()):
        built, _ = build(
            str(folder),
            index_path=str(path),
            index_infos_path=str(path.with_suffix(".json")),
            index_key=key,
            metric_type="ip",
            max_index_memory_usage=f"{0.8 * memory_gib:.1f}GB",
            current_memory_available=f"{memory_gib}GB",
            use_gpu=False,
            verbose=logging.ERROR,
        )
    path.with_suffix(".json").unlink(missing_ok=True)
    if built is None:
        raise InputError(
            f"index.key: {key} over {embeddings.counts['rows']:,} rows needs more than the {memory_gib} GiB of this "
            "machine; use a machine with more memory, or a smaller corpus"
        )
    return faiss.read_index(str(path))


def _queries(embeddings: Artifact, wanted: int) -> Vectors:
    """Caption vectors of random rows (fixed seed).

    A prompt is a text, so captions stand for prompts on both sides; on the text side each query is itself in the index.
    """
    rows = int(embeddings.counts["rows"])
    chosen = np.sort(np.random.default_rng(0).choice(rows, size=min(wanted, rows), replace=False))
    found, start = [], 0
    for vectors in _chunks(embeddings, "text"):
        inside = chosen[(chosen >= start) & (chosen < start + len(vectors))] - start
        found.append(vectors[inside])
        start += len(vectors)
    return np.concatenate(found)


def _tenth_best(embeddings: Artifact, side: Side, queries: Vectors) -> Vectors:
    """The exact similarity of each query's tenth nearest row, (Q,)."""
    best = np.empty((len(queries), 0), dtype=np.float32)
    for vectors in _chunks(embeddings, side):
        best = np.concatenate([best, queries @ vectors.T], axis=1)
        best = -np.partition(-best, min(RECALL_DEPTH, best.shape[1]) - 1, axis=1)[:, :RECALL_DEPTH]
    return best.min(axis=1)


def _recall(index: Any, queries: Vectors, tenth_best: Vectors) -> float:
    """Share of the hits wanted that are as similar as the exact tenth: rows of equal similarity are equally right."""
    depth = min(RECALL_DEPTH, index.ntotal)
    similarities, rows = index.search(queries, depth)
    right = (rows >= 0) & (similarities >= tenth_best[:, None] - 1e-5)
    return round(float(right.mean()), 4)


def _tune(index: Any, key: str, queries: Vectors, tenth_best: Vectors, rows: int) -> str:
    # autofaiss tunes for a query time of 10 ms whatever the recall; a search of prompts runs once and can wait.
    family = "IVF" if key.startswith("IVF") else "HNSW"
    name, value = _PARAMETERS[family]
    limit = int(key[3:].split(",")[0]) if family == "IVF" else rows
    value = min(value, limit)
    _set_parameters(index, f"{name}={value}")
    while value < limit and _recall(index, queries, tenth_best) < _TARGET_RECALL:
        value = min(2 * value, limit)
        _set_parameters(index, f"{name}={value}")
    return f"{name}={value}"


def _set_parameters(index: Any, parameters: str) -> None:
    import faiss

    faiss.ParameterSpace().set_index_parameters(index, parameters)


def _read(path: Path, artifact: Artifact) -> Any:
    import faiss

    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise CorruptArtifact(
            f"{path}: FAISS cannot read it ({str(error).splitlines()[0]}); rematerialize `{artifact.stage}`"
        ) from error
