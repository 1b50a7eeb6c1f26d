"""Configuration of the FAISS index: `index:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules, and which keys there are. Does not belong here: what a key means and
which one `auto` takes (`indexing.keys`), building an index (`indexing.build`).
"""

import re

from pydantic import Field, field_validator

from react_pipeline.settings.training import Fraction, Section

_N = "[1-9][0-9]*"
_CODES = rf"Flat|SQ(?:fp16|4|6|8)|PQ{_N}(?:x{_N})?"
_KEY = re.compile(
    rf"Flat|SQ(?:fp16|4|6|8)|HNSW{_N}(?:_SQ(?:fp16|8))?|(?:OPQ{_N}(?:_{_N})?,)?IVF{_N}(?:_HNSW{_N})?,(?:{_CODES})"
)
FEWEST_LINKS, BITS = 2, range(4, 13)
"""Of a graph, and of a product quantizer's codes: fewer bits distinguish too little, more take too long to train."""


def key_problem(key: str) -> str:
    """What is wrong with a key of FAISS' index factory, and the way out; "" if nothing is, whatever the vectors' width.

    FAISS refuses few of them: a number of 0 crashes its process, a graph of 1 link asks for all memory.
    """
    if not _KEY.fullmatch(key):
        return (
            f"{key!r} is no key that this pipeline builds; write `auto`, or one such as `Flat`, `HNSW32`, "
            "`IVF1024,SQ8` or `OPQ64_512,IVF4096_HNSW32,PQ64x8`, with numbers from 1"
        )
    if any(int(links) < FEWEST_LINKS for links in re.findall(r"HNSW(\d+)", key)):
        return f"{key!r}: a graph needs at least {FEWEST_LINKS} links a row; write HNSW16 to HNSW64"
    bits = re.search(r"PQ\d+x(\d+)", key)
    if bits and int(bits[1]) not in BITS:
        return f"{key!r}: codes of {bits[1]} bits are not built; use {BITS[0]} to {BITS[-1]}, such as x8"
    return ""


class IndexConfig(Section):
    """The FAISS index.

    Attributes:
        key: `auto` (by rows and memory), or a key of FAISS' index factory: `Flat`, `IVF1024,Flat`, `IVF1024,SQ8`,
            `HNSW32`, `OPQ64_512,IVF4096_HNSW32,PQ64x8`.
        exact_below: Up to this many rows `auto` searches exactly.
        memory_gib: What one side's index may take while it is built; unset: half of the machine's memory.
        training_rows: How many random rows cells and codes are trained on; unset: 64 a cell and at least 65,536.
        target_recall: nprobe, efSearch and the re-ranking are raised until recall@10 reaches this.
        rerank: So many times the hits wanted are fetched and ranked again by the stored vectors; unset: by key.
        recall_queries: How many held-out queries measure recall@10 and @100; as many others serve the tuning.
        min_recall: The check fails below this recall@10.
        min_recall_100: Likewise for recall@100, which is lower, since the parameters are tuned at 10.
    """

    key: str = "auto"
    exact_below: int = Field(default=200_000, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    training_rows: int | None = Field(default=None, gt=0)
    target_recall: Fraction = 0.95
    rerank: int | None = Field(default=None, ge=1, le=1_000)
    recall_queries: int = Field(default=200, gt=0)
    min_recall: Fraction = 0.9
    min_recall_100: Fraction = 0.5

    @field_validator("key")
    @classmethod
    def _key_is_built(cls, key: str) -> str:
        if key != "auto" and (problem := key_problem(key)):
            raise ValueError(problem)
        return key
