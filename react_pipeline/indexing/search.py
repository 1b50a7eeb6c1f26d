"""Searching: many queries at once by one pass over the stored vectors, which is exact, or an index
of FAISS, whose hits are ranked again by these vectors.

In a pass, products are computed in a fast type. Rows whose product is within a margin of the k-th
best are candidates, and are ranked in double precision in the end. So hits depend on neither the
type, the device nor the blocks: similarity, rounded to float32, descending; equal ones by row,
ascending.

Does not belong here: which files of vectors there are (`embedding`), training an index and adding
rows (`indexing.build`). Shapes: Q queries, K hits, N rows, D width, P pairs of a query and a row.
"""

from __future__ import annotations

from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from react_pipeline.embedding import Rows, Side, StoredVectors, Vectors
from react_pipeline.stage import FAISS_INDEX
from react_pipeline.store import CorruptArtifact

SIDES: tuple[Side, ...] = ("image", "text")
FEW_QUERIES = 64
"""Up to here reading the vectors takes longer than comparing them, and a fast type gains nothing.
"""
MARGINS = {"fp32": 0.0004, "fp16": 0.0016, "bf16": 0.011}
"""Twice what rounding moves a product of unit vectors, since the k-th best and a better row may
move in opposite directions: for each of both vectors the length that rounding adds to it, and half
a unit in the last place of the product."""
MOST_ALIKE = 10_000
"""Candidates of a query beyond k, which bounds memory where very many rows are alike: then those of
the best products are ranked."""
_BLOCK_ROWS = 256, 16_384
_BLOCK_VALUES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Similarities computed at a time, by device: on a CPU they should stay in its cache."""
_SPARE_PAIRS = 2 << 20
"""Pairs that may be kept beside twice the candidates: about 40 MB."""
_RANKED_AT_ONCE = 2_048
HITS_AT_ONCE = 1_000_000
"""Hits of an index that are ranked at a time: about 30 MB."""


def product_precision(queries: int, device: str) -> str:
    """Return the type in which products are fastest; hits are the same in all of them."""
    from react_pipeline.clip import choose_precision

    if queries <= FEW_QUERIES:
        return "fp32"
    # Vectors are stored in half precision, so on a GPU rounding does not move them.
    return choose_precision("auto", "cpu") if device == "cpu" else "fp16"


def exact_hits(
    stored: StoredVectors,
    queries: Vectors,
    k: int,
    device: str = "cpu",
    precision: str | None = None,
) -> tuple[Vectors, Rows]:
    """Return the k rows most similar to each query, by one pass over the vectors.

    Args:
        stored: The vectors.
        queries: Unit rows (Q, D).
        k: Hits per query.
        device: Where products are computed: `cpu` or `cuda`.
        precision: The type of the products; by default the fastest.

    Returns:
        Similarities and rows (Q, k), in the order that the module's text states; minus infinity and
        -1 where there are fewer.
    """
    import torch

    from react_pipeline.clip import DTYPES, arithmetic

    precision = precision or product_precision(len(queries), device)
    fast = torch.from_numpy(queries).to(device, DTYPES[precision])
    margin = MARGINS[precision]
    values = _BLOCK_VALUES[torch.device(device).type]
    size = int(np.clip(values // max(len(queries), 1), *_BLOCK_ROWS))
    kth = np.full(len(queries), -np.inf, np.float32)
    found: list[tuple[Rows, Rows, Vectors]] = []
    pairs, most = 0, _SPARE_PAIRS
    bar = tqdm(total=stored.rows, desc="comparing rows", disable=None, leave=False)
    with arithmetic(), bar:
        for first, block in stored.blocks(size):
            vectors = torch.from_numpy(block).to(device).to(fast.dtype)
            products = fast @ vectors.T
            if k <= len(vectors) and np.isinf(kth).any():
                kth = products.topk(k, dim=1).values[:, -1].float().cpu().numpy()
            # Rounding keeps the order.
            least = torch.from_numpy(kth - margin).to(fast)
            query, row = (products >= least[:, None]).nonzero().T
            product = products[query, row].float()
            found.append((query.cpu().numpy(), row.cpu().numpy() + first, product.cpu().numpy()))
            pairs += len(query)
            if pairs > most:
                found = [_near_best(found, k, kth, margin)]
                pairs = len(found[0][0])
                most = 2 * pairs + _SPARE_PAIRS
            bar.update(len(vectors))
    query_numbers, rows, _ = _near_best(found, k, kth, margin)
    return rank_exactly(queries, query_numbers, rows, stored, k)


def _near_best(
    found: list[tuple[Rows, Rows, Vectors]], k: int, kth: Vectors, margin: float
) -> tuple[Rows, Rows, Vectors]:
    """Raise the k-th best products (Q,) to those found, and return the pairs that may still be
    hits.

    Args:
        found: Numbers of queries, rows and products of pairs (P,).
    """
    query, row, product = map(np.concatenate, zip(*found, strict=True))
    order, rank = _best_first(query, row, product)
    query, row, product = query[order], row[order], product[order]
    last = rank == k - 1
    kth[query[last]] = product[last]
    near = (product >= kth[query] - margin) & (rank < k + MOST_ALIKE)
    return query[near], row[near], product[near]


def _best_first(query: Rows, row: Rows, similarity: Vectors) -> tuple[Rows, Rows]:
    """Return the order of pairs (P,) by query, similarity and row, and the rank of each so ordered
    within its query.
    """
    order = np.lexsort((row, -similarity, query))
    query = query[order]
    return order, np.arange(len(query)) - np.searchsorted(query, query)


def rank_exactly(
    queries: Vectors, query: Rows, row: Rows, stored: StoredVectors, k: int
) -> tuple[Vectors, Rows]:
    """Return the k best (Q, k) of pairs of a query and a row, by products in double precision, in
    the order that the module's text states.

    Args:
        queries: (Q, D).
        query: Number of each pair's query (P,).
        row: Its row (P,).
        stored: The vectors.
        k: Hits of a query.
    """
    similarity = np.empty(len(row), np.float32)
    by_row = np.argsort(row, kind="stable")  # so that neighbouring pages are read together
    for start in range(0, len(row), _RANKED_AT_ONCE):
        part = by_row[start : start + _RANKED_AT_ONCE]
        vectors = stored.take(row[part]).astype(np.float64)
        similarity[part] = (vectors * queries[query[part]]).sum(axis=1)
    order, rank = _best_first(query, row, similarity)
    order, rank = order[rank < k], rank[rank < k]
    place = query[order], rank
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    similarities[place], rows[place] = similarity[order], row[order]
    return similarities, rows


def read_index(path: Path) -> Any:
    """Map an index: vectors, cells and graph stay in the file, whose pages a search reads and gives
    up again. Nothing can be added to it.

    Raises:
        CorruptArtifact: If FAISS cannot read it.
    """
    import faiss

    try:
        # `IO_FLAG_MMAP` would map cells only.
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except (RuntimeError, MemoryError) as error:
        raise CorruptArtifact(
            f"{path}: FAISS cannot read it ({str(error).splitlines()[0]}); rematerialize "
            f"`{FAISS_INDEX}`"
        ) from error


def set_parameters(index: Any, parameters: str) -> None:
    """Set what trades speed for recall, such as `nprobe=8`."""
    import faiss

    faiss.ParameterSpace().set_index_parameters(index, parameters)


def innermost(index: Any) -> Any:
    """Return the index behind rotations and maps of row numbers."""
    import faiss

    index = faiss.downcast_index(index)
    while isinstance(index, faiss.IndexPreTransform | faiss.IndexIDMap | faiss.IndexIDMap2):
        index = faiss.downcast_index(index.index)
    return index


def inverted_lists(index: Any) -> Any | None:
    """Return the index of cells inside, or None if it has none."""
    import faiss

    inner = innermost(index)
    return inner if isinstance(inner, faiss.IndexIVF) else None


def find_rows(
    index: Any, queries: Vectors, k: int, rerank: int = 1, stored: StoredVectors | None = None
) -> tuple[Vectors, Rows]:
    """Search an index query by query, and rank again by the stored vectors.

    Args:
        index: A FAISS index of inner products.
        queries: Unit rows (Q, D).
        k: Hits per query; capped by the index.
        rerank: So many times k hits are fetched.
        stored: The vectors; without them its own similarities, which may be coarse, decide.

    Returns:
        Similarities and rows (Q, K), best first; minus infinity and -1 where no hit was found.
    """
    k = min(k, index.ntotal)
    wanted = min(k * rerank, index.ntotal)
    found = []
    for part in np.array_split(queries, len(queries) * wanted // HITS_AT_ONCE + 1):
        similarities, rows = index.search(part, wanted)
        if stored is not None:
            query, place = np.nonzero(rows >= 0)
            similarities, rows = rank_exactly(part, query, rows[query, place], stored, k)
        found.append((np.where(rows < 0, -np.inf, similarities), rows))
    similarities, rows = map(np.concatenate, zip(*found, strict=True))
    return similarities, rows


def has_whole_cells(index: Any) -> bool:
    """Return whether `cell_hits` can search an index: its cells store vectors, not residuals."""
    import faiss

    lists = faiss.downcast_index(index)
    kinds = faiss.IndexIVFFlat | faiss.IndexIVFScalarQuantizer
    return isinstance(lists, kinds) and not lists.by_residual


def cell_hits(
    index: Any, queries: Vectors, k: int, rerank: int, stored: StoredVectors
) -> tuple[Vectors, Rows]:
    """Find the hits of `find_rows` in an index that `has_whole_cells`, for many queries at once.

    Each cell is decoded once and compared with all queries that visit it; query by query it is
    decoded for each of them.
    """
    import faiss
    from faiss.contrib.big_batch_search import big_batch_search

    with redirect_stdout(None):  # it prints a line a cell, whatever `verbose` is
        _, rows = big_batch_search(faiss.downcast_index(index), queries, k * rerank)
    query, place = np.nonzero(rows >= 0)
    return rank_exactly(queries, query, rows[query, place], stored, k)
