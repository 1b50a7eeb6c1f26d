"""Configuration of the FAISS index: `index:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules, and which keys there are. Does not belong here:
what a key means and which one `auto` takes (`indexing.keys`), building an index (`indexing.build`).
"""

import re
from typing import Literal

from pydantic import Field, field_validator

from react_pipeline.settings.section import Fraction, Section

_N = "[1-9][0-9]*"
_CODES = rf"Flat|SQ(?:fp16|4|6|8)|PQ{_N}(?:x{_N})?"
_KEY = re.compile(
    rf"Flat|SQ(?:fp16|4|6|8)|HNSW{_N}(?:_SQ(?:fp16|8))?|(?:OPQ{_N}(?:_{_N})?,)?IVF{_N}(?:_HNSW{_N})?,(?:{_CODES})"
)
FEWEST_LINKS, BITS = 2, range(4, 13)
"""Of a graph, and of a product quantizer's codes: fewer bits distinguish too little, more take too
long to train.
"""


def key_problem(key: str) -> str:
    """What is wrong with a key of FAISS' index factory, and the way out; "" if nothing is, whatever
    the vectors' width.

    FAISS refuses few of them: a number of 0 crashes its process, a graph of 1 link asks for all
    memory.
    """
    if not _KEY.fullmatch(key):
        return (
            f"{key!r} is not a key that this pipeline builds; write `auto`, or one such as `Flat`, "
            "`HNSW32`, `IVF1024,SQ8` or `OPQ64_512,IVF4096_HNSW32,PQ64x8`, with numbers from 1"
        )
    if any(int(links) < FEWEST_LINKS for links in re.findall(r"HNSW(\d+)", key)):
        return f"{key!r}: a graph needs at least {FEWEST_LINKS} links a row; write HNSW16 to HNSW64"
    bits = re.search(r"PQ\d+x(\d+)", key)
    if bits and int(bits[1]) not in BITS:
        return (
            f"{key!r}: codes of {bits[1]} bits are not built; use {BITS[0]} to {BITS[-1]}, such "
            "as x8"
        )
    return ""


class IndexConfig(Section):
    """The FAISS index."""

    key: str = "auto"
    exact_below: int = Field(default=200_000, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    training_rows: int | None = Field(default=None, gt=0)
    train_on: Literal["faiss-gpu"] | None = None
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
