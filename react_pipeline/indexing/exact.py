"""Exact search of many queries at once, by products of matrices a block of rows at a time.

Shapes: Q queries, N rows of a block, D width, P pairs of a query and a row.

Products are computed in a fast type. Rows whose product is within a margin of the k-th best are
candidates, and are ranked in double precision in the end. So hits depend on neither the type, the
device nor the blocks: similarity, rounded to float32, descending; equal ones by row, ascending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from react_pipeline.embedding import UNIT_TOLERANCE, Rows, Vectors
from react_pipeline.indexing.vectors import StoredVectors

if TYPE_CHECKING:
    from torch import Tensor

    Candidates = tuple[Tensor, Tensor, Tensor]
    """Number of the query, row and product of each pair (P,)."""

FEW_QUERIES = 64
"""Up to here reading the vectors takes longer than comparing them, and a fast type gains nothing.
"""
MARGINS = {"fp32": 0.0004, "fp16": 0.0034, "bf16": 0.024}
"""Twice what a product of unit vectors of up to 1,500 numbers may be off in a type, rounded up: the
k-th best and a better row may be off in opposite directions."""
MOST_ALIKE = 10_000
"""Candidates of a query beyond k, which bounds memory where very many rows are alike: then those of
the best products are ranked."""
_BLOCK_ROWS = 256, 16_384
_BLOCK_VALUES = {"cpu": 4 << 20, "cuda": 256 << 20}
"""Similarities computed at a time, by device: on a CPU they should stay in its cache."""
_SPARE_PAIRS = 2 << 20
"""Pairs that may be kept beside twice the candidates: about 40 MB."""
_RANKED_AT_ONCE = 2_048


def exact_hits(
    stored: StoredVectors,
    queries: Vectors,
    k: int,
    device: str = "cpu",
) -> tuple[Vectors, Rows]:
    """Return the k rows most similar to each query, by one pass over the vectors.

    Args:
        queries: Unit rows (Q, D).
        k: Hits per query.
        device: Where products are computed: `cpu` or `cuda`.

    Returns:
        Similarities and rows (Q, k), as from `best_hits`.

    Raises:
        InputError: If a vector is not finite or not of unit length.
    """
    import torch

    values = _BLOCK_VALUES[torch.device(device).type]
    size = int(np.clip(values // max(len(queries), 1), *_BLOCK_ROWS))

    def blocks() -> Iterator[tuple[int, Tensor]]:
        with tqdm(total=stored.rows, desc="comparing rows", disable=None, leave=False) as bar:
            for first, block in stored.blocks(size):
                vectors = torch.from_numpy(np.array(block)).to(device).float()
                # A NaN compares as false.
                if not bool(((vectors.norm(dim=1) - 1).abs() < UNIT_TOLERANCE).all()):
                    stored.refuse_bad(np.arange(first, first + len(block)), vectors.cpu().numpy())
                yield first, vectors
                bar.update(len(block))

    precision = product_precision(len(queries), device)
    return best_hits(queries, k, blocks(), stored.take, precision, device)


def product_precision(queries: int, device: str) -> str:
    """Return the type in which products are fastest; hits are the same in all of them."""
    from react_pipeline.clip import choose_precision

    if queries <= FEW_QUERIES:
        return "fp32"
    # Vectors are stored in half precision, so on a GPU rounding does not move them.
    return choose_precision("auto", "cpu") if device == "cpu" else "fp16"


def best_hits(
    queries: Vectors,
    k: int,
    blocks: Iterable[tuple[int, Tensor]],
    take: Callable[[Rows], Vectors],
    precision: str = "fp32",
    device: str = "cpu",
) -> tuple[Vectors, Rows]:
    """Return the k rows most similar to each query, in the order that the module's text states.

    Args:
        queries: Unit rows (Q, D).
        k: Hits of a query.
        blocks: First rows of blocks and their vectors (N, D), on the device.
        take: Returns the vectors (m, D) of rows, which are distinct and ascending.
        precision: The type of the products: `fp32`, `bf16` or `fp16`.
        device: Where they are computed.

    Returns:
        Similarities and rows (Q, k); minus infinity and -1 where there are fewer.
    """
    import torch

    from react_pipeline.clip import DTYPES, arithmetic

    fast = torch.from_numpy(queries).to(device, DTYPES[precision])
    margin = MARGINS[precision]
    kth = torch.full((len(fast),), -torch.inf, device=device)
    nothing = torch.empty(0, dtype=torch.long, device=device)
    found = [(nothing, nothing, kth[:0])]
    size = kept = 0
    with arithmetic():
        for first_row, vectors in blocks:
            products = fast @ vectors.to(fast.dtype).T
            if k <= len(vectors) and kth.isinf().any():
                kth.copy_(products.topk(k, dim=1).values[:, -1])
            # Rounding keeps the order.
            least = (kth - margin).to(fast.dtype)
            query, row = (products >= least[:, None]).nonzero().T
            found.append((query, row + first_row, products[query, row].float()))
            size += len(query)
            if size > 2 * kept + _SPARE_PAIRS:
                found = [_near_best(found, k, kth, margin)]
                size = kept = len(found[0][0])
        query, row, _ = _near_best(found, k, kth, margin)
    return rank_exactly(queries, query.cpu().numpy(), row.cpu().numpy(), take, k)


def _near_best(found: list[Candidates], k: int, kth: Tensor, margin: float) -> Candidates:
    """Raise the k-th best products (Q,) to those found, and return the pairs that may still be
    hits.
    """
    import torch

    query, row, product = (torch.cat(some) for some in zip(*found, strict=True))
    # Equal products stay in the order of rows.
    order = product.argsort(descending=True, stable=True)
    order = order[query[order].argsort(stable=True)]
    query, row, product = query[order], row[order], product[order]
    place = torch.arange(len(query), device=query.device) - torch.searchsorted(query, query)
    last = place == k - 1
    kth[query[last]] = product[last]
    near = (product >= kth[query] - margin) & (place < k + MOST_ALIKE)
    return query[near], row[near], product[near]


def rank_exactly(
    queries: Vectors,
    query: Rows,
    row: Rows,
    take: Callable[[Rows], Vectors],
    k: int,
) -> tuple[Vectors, Rows]:
    """Return the k best (Q, k) of pairs of a query and a row, by products in double precision, in
    the order that the module's text states.

    Args:
        queries: (Q, D).
        query: Number of each pair's query (P,).
        row: Its row (P,).
        take: Returns the vectors (m, D) of rows, which are distinct and ascending.
        k: Hits of a query.
    """
    order = np.argsort(row, kind="stable")
    query, row = query[order], row[order]
    similarity = np.empty(len(row), np.float32)
    for start in range(0, len(row), _RANKED_AT_ONCE):
        part = slice(start, start + _RANKED_AT_ONCE)
        distinct, place = np.unique(row[part], return_inverse=True)
        vectors = take(distinct).astype(np.float64)[place]
        similarity[part] = (vectors * queries[query[part]]).sum(axis=1)
    order = np.lexsort((row, -similarity, query))
    query = query[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    kept = rank < k
    best = query[kept], rank[kept]
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    similarities[best] = similarity[order][kept]
    rows[best] = row[order][kept]
    return similarities, rows
