"""What building and searching an index costs: core seconds, from a few rates. N rows, D width, n
cells.

Does not belong here: the size of an index (`indexing.keys`).
"""

from react_pipeline.indexing import SAMPLE_POINTS_PER_CELL, Key, choose_key, product_precision
from react_pipeline.settings import IndexConfig

OPERATIONS_PER_SECOND = {"fp32": 7e10, "bf16": 2.3e11}
"""Multiplications and additions of a core in a product of matrices, by type."""
CELL_OPERATIONS_PER_SECOND, GRAPH_OPERATIONS_PER_SECOND = 4e10, 2e9
"""Likewise in the cells of an index, and of a core that walks a graph and waits for memory. All by
`benchmarks.retrieval` on one core of an AMD EPYC with bf16 instructions.
"""
BYTES_PER_SECOND = 5e8
KMEANS_ROUNDS, KMEANS_OPERATIONS_PER_SECOND = 10, 68e9
ADDED_PER_SECOND = {
    # With 32,768 cells; as 1/n with other numbers.
    "IVF,SQfp16": 2_532.0,
    # With 32,768 and 65,536 cells.
    "OPQ64,IVF_HNSW32,PQ64x8": 6_646.0,
    "HNSW32": 1_150.0,
}
"""Rows that one core of an AMD EPYC adds (`benchmarks.retrieval`)."""


def planned_key(config: IndexConfig, rows: int, dimension: int, memory_bytes: int) -> Key:
    """The key that `choose_key` takes with this much memory, of which `auto` uses half."""
    limit = memory_bytes // 2 if config.key == "auto" else memory_bytes
    return Key.parse(
        choose_key(config, rows, dimension, int((config.memory_gib or 0) * 2**30) or limit)[0]
    )


def training_seconds(rows: int, cells: int, dimension: int = 512) -> float:
    """Seconds to train the cells of one side: each round compares every sampled row with every
    cell.
    """
    sample = min(SAMPLE_POINTS_PER_CELL * cells, rows)
    return 2 * sample * cells * dimension * KMEANS_ROUNDS / KMEANS_OPERATIONS_PER_SECOND


def adding_seconds(rows: int, key: Key) -> float:
    """Seconds to add the rows of one side."""
    if key.cell_links:
        return rows / ADDED_PER_SECOND["OPQ64,IVF_HNSW32,PQ64x8"]
    if key.links:
        return rows / ADDED_PER_SECOND["HNSW32"] * key.links / 32
    return rows / ADDED_PER_SECOND["IVF,SQfp16"] * key.cells / 32_768


def index_seconds(rows: int, key: Key, dimension: int = 512, queries: int = 200) -> float:
    """Seconds to build both sides, with the exact search by which recall is measured.

    Args:
        queries: `index.recall_queries`; as many more tune.
    """
    # A Flat index is searched as exactly, by the half of the queries that tunes, and by the other
    # half at two depths.
    searches = 2.5 if key.text == "Flat" else 1
    compared = 2.0 * searches * 2 * queries * rows * dimension / OPERATIONS_PER_SECOND["fp32"]
    return 2 * (training_seconds(rows, key.cells, dimension) + adding_seconds(rows, key) + compared)


def comparing_seconds(queries: int, rows: int, dimension: int) -> float:
    """Seconds to compare all queries with all rows."""
    rate = OPERATIONS_PER_SECOND[product_precision(queries, "cpu")]
    return 2.0 * queries * rows * dimension / rate


def searching_seconds(queries: int, rows: int, key: Key, dimension: int) -> float:
    """Seconds to search an index with parameters as tuning usually finds them: a twentieth of the
    cells, or 128 rows of a graph.
    """
    if key.cells:
        operations = 2.0 * queries * dimension * (key.cells + rows / 20)
        return operations / CELL_OPERATIONS_PER_SECOND
    if key.links:
        return 2.0 * queries * dimension * 128 * key.links / GRAPH_OPERATIONS_PER_SECOND
    return comparing_seconds(queries, rows, dimension)
