"""The sums for corpora that no machine here can hold: disk, memory and hours, from a formula and a
few rates.

`.venv/bin/python -m benchmarks.cluster_sums --page benchmarks/results.md` writes the tables into
that page from the rates below. `--measure` measures those of FAISS on one core, in two minutes; put
what it prints into `extensions/plan/index_cost.py`.

Belongs here: the tables. Does not belong here: rates and formulas (`extensions.plan.index_cost`),
the size of an index (`indexing.keys`). N pairs, D width of the vectors, n cells.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from markupsafe import Markup

from react_pipeline.corpus import IMAGE_BYTES
from react_pipeline.extensions.plan import (
    GPU_PAIRS_PER_SECOND,
    METADATA_BYTES,
    adding_seconds,
    index_seconds,
    training_seconds,
)
from react_pipeline.extensions.web import URLS_PER_CORE_SECOND
from react_pipeline.indexing import (
    SAMPLE_POINTS_PER_CELL,
    Key,
    Searched,
    cells_for,
    estimate,
)
from react_pipeline.pages import markdown_table

BEGIN, END = "<!-- sums:begin -->", "<!-- sums:end -->"
CORPORA = {"LAION-400M": 400_000_000, "LAION-2B": 2_320_000_000}
DIMENSION, PROMPTS = 512, 80_000
MACHINES = [
    ("2 cores", 2, False),
    ("64 cores", 64, False),
    ("16 Spark workers of 64 cores", 1_024, False),
]
MACHINES += [("one H100 (100 T operations a second, assumed)", 1, True)]
TB, GIB = 1e12, 2**30
KEY_BYTES = 30
"""Of a pair, in the register of keys."""
CORE_PAIRS_PER_SECOND = 28.0
"""With a ViT-B/32 in bf16 (benchmarks/results.md)."""
QUERIES = 400
"""Of which the exact neighbours are found."""


def keys_for(rows: int) -> list[str]:
    """Keys worth a thought at this size."""
    cells = cells_for(rows)
    codes = [f"OPQ{parts}_512,IVF{cells}_HNSW32,PQ{parts}x8" for parts in (64, 16)]
    return ["Flat", f"IVF{cells},SQfp16", f"IVF{cells},SQ8", *codes]


def corpus_table() -> str:
    """Disk and hours of what every corpus needs, whatever its index."""
    rows: list[list[str]] = []

    def row(name: str, values: list[str]) -> None:
        rows.append([Markup(name), *values])

    sizes = list(CORPORA.values())
    row("pairs, N", [f"{size / 1e9:.2f} billion" for size in sizes])
    row(
        "images at 256 px, 25 kB each (assumed)",
        [f"{size * IMAGE_BYTES / TB:,.0f} TB" for size in sizes],
    )
    row(
        f"vectors, both sides, D = {DIMENSION}: 4 D N",
        [f"{4 * DIMENSION * size / TB:.2f} TB" for size in sizes],
    )
    row(
        "metadata, 200 B a pair (assumed; 115 B on the demo)",
        [f"{METADATA_BYTES * size / TB:.2f} TB" for size in sizes],
    )
    row(
        "register of keys while it is embedded, 30 B a pair",
        [f"{KEY_BYTES * size / 1e9:,.0f} GB" for size in sizes],
    )

    def hours(per_second: float) -> list[float]:
        return [size / per_second / 3_600 for size in sizes]

    row(
        "download, hours of a machine of 16 cores",
        [f"{value:,.0f}" for value in hours(16 * URLS_PER_CORE_SECOND)],
    )
    row("embedding, GPU hours", [f"{value:,.0f}" for value in hours(GPU_PAIRS_PER_SECOND)])
    row(
        "GPUs to be done in 24 h",
        [f"{np.ceil(value / 24):,.0f}" for value in hours(GPU_PAIRS_PER_SECOND)],
    )
    cores = hours(CORE_PAIRS_PER_SECOND)
    row("embedding without GPUs (bf16), core hours", [f"{value:,.0f}" for value in cores])
    row(
        "machines of 64 cores to be done in 24 h",
        [f"{np.ceil(value / 24 / 64):,.0f}" for value in cores],
    )
    return markdown_table(["what", *CORPORA], rows).rstrip()


def index_table(name: str) -> str:
    """Disk, memory and hours of each key, for one corpus."""
    rows = CORPORA[name]
    columns = [
        "key",
        "disk, both sides",
        "memory of the driver, one side",
        "training, core hours",
        "adding, core hours",
    ]
    lines = []
    for key in keys_for(rows):
        parsed = Key.parse(key)
        size = parsed.bytes(rows, DIMENSION)
        sample = 4 * DIMENSION * SAMPLE_POINTS_PER_CELL * parsed.cells
        training, adding = (
            2 * training_seconds(rows, parsed.cells, DIMENSION),
            2 * adding_seconds(rows, parsed),
        )
        hours = [
            training / 3_600,
            adding / 3_600,
            index_seconds(rows, parsed, DIMENSION) / 3_600 / 64,
        ]
        about = [f"{value:,.1f}" for value in hours]
        cells = [
            Markup(f"`{key}`"),
            f"{2 * size / GIB:,.0f} GiB",
            f"{(size + sample) / GIB:,.0f} GiB",
            *about,
        ]
        lines.append(cells)
    head = f"{name}, {rows / 1e9:.2f} billion rows, {cells_for(rows):,} cells:"
    return f"{head}\n\n{markdown_table([*columns, 'hours on 64 cores'], lines)}".rstrip()


def search_table(rows: int = CORPORA["LAION-400M"]) -> str:
    """Hours of searching all prompts of ImageNet among one side, exactly and cell by cell."""
    built, lines = Searched.planned(Key.parse(f"IVF{cells_for(rows)},SQfp16"), rows, DIMENSION), []
    for name, cores, gpu in MACHINES:
        places = ["cuda"] if gpu else ["fp32", "bf16"]
        for place in places:
            device, precision = ("cuda", "fp16") if gpu else ("cpu", place)
            sums = estimate(
                "auto", built, PROMPTS, 10, device=device, cores=cores, precision=precision
            )
            seconds = (sums.exact_seconds, sums.index_seconds)
            lines.append([name, precision, *(f"{value / 3_600:,.2f}" for value in seconds)])
    head = (
        f"{PROMPTS:,} prompts (1,000 names x 80 templates), 10 hits each, against one side of "
        "LAION-400M, in hours, "
    )
    head += "of which 0.23 read the vectors at 0.5 GB/s:"
    columns = ["machine", "type", "exact", "cell by cell"]
    return f"{head}\n\n{markdown_table(columns, lines)}".rstrip()


def page() -> str:
    """All tables."""
    return "\n\n".join([corpus_table(), *(index_table(name) for name in CORPORA), search_table()])


def measure() -> None:
    """Print FAISS' rates on one thread: cells are random vectors, since which they are changes no
    time.
    """
    import faiss

    faiss.omp_set_num_threads(1)
    for key in (
        "IVF32768,SQfp16",
        "OPQ64_512,IVF32768_HNSW32,PQ64x8",
        "OPQ64_512,IVF65536_HNSW32,PQ64x8",
    ):
        parsed = Key.parse(key)
        index = faiss.index_factory(DIMENSION, key, faiss.METRIC_INNER_PRODUCT)
        lists = faiss.downcast_index(faiss.extract_index_ivf(index))
        faiss.downcast_index(lists.quantizer).add(_vectors(parsed.cells, 1))
        if parsed.parts:
            rotation = faiss.RandomRotationMatrix(DIMENSION, DIMENSION)
            rotation.init(5)
            trained = faiss.downcast_VectorTransform(index.chain.at(0))
            faiss.copy_array_to_vector(faiss.vector_to_array(rotation.A), trained.A)
            trained.is_trained, trained.have_bias = True, False
            lists.pq.cp.niter = 4
            lists.pq.train(_vectors(10_000, 7))
        lists.is_trained = index.is_trained = True
        vectors = _vectors(16_384, 3)
        print(
            f"add to {key}: "
            f"{_rate(lambda index=index, vectors=vectors: index.add(vectors), 16_384):,.0f} rows/s"
        )
    queries, vectors = _vectors(QUERIES, 4), _vectors(32_768, 5)
    nearest = _rate(
        lambda: faiss.knn(queries, vectors, 101, metric=faiss.METRIC_INNER_PRODUCT), len(vectors)
    )
    print(f"exact neighbours of {QUERIES} queries: {nearest:,.0f} rows/s")
    clustering, rounds, sample = faiss.Clustering(DIMENSION, 1_024), 4, _vectors(65_536, 8)
    clustering.niter, clustering.max_points_per_centroid = rounds, SAMPLE_POINTS_PER_CELL
    operations = 2 * len(sample) * 1_024 * DIMENSION * rounds
    print(
        "k-means: "
        f"{_rate(lambda: clustering.train(sample, faiss.IndexFlatIP(DIMENSION)), operations) / 1e9:.0f} G/s"
    )


def _vectors(count: int, seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(2_000, DIMENSION))
    vectors = centres[chance.integers(0, 2_000, count)] + 0.9 * chance.normal(
        size=(count, DIMENSION)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def _rate(work: object, amount: float) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return amount / (time.perf_counter() - started)


def main() -> None:
    """Write or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--page", type=Path, help="put the tables between the markers of this page")
    parser.add_argument(
        "--measure", action="store_true", help="measure the rates of FAISS on one core"
    )
    given = parser.parse_args()
    if given.measure:
        measure()
    elif given.page:
        text = given.page.read_text()
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        given.page.write_text(f"{text[:start]}\n\n{page()}\n\n{text[end:]}")
    else:
        print(page())


if __name__ == "__main__":
    main()
