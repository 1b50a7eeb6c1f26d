"""Configuration of the index: `index:` of `pipeline.yaml`, and which keys of FAISS are built.

Does not belong here: what a key means (`indexing.keys`).
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from react_pipeline.settings.section import Fraction, Section

_N, _LINKS, _BITS = "[1-9][0-9]*", "(?:[2-9]|[1-9][0-9]+)", "(?:[4-9]|1[0-2])"
_CODES = rf"Flat|SQ(?:fp16|4|6|8)|PQ{_N}(?:x{_BITS})?"
_KEY = re.compile(
    rf"Flat|SQ(?:fp16|4|6|8)|HNSW{_LINKS}(?:_SQ(?:fp16|8))?|"
    rf"(?:OPQ{_N}(?:_{_N})?,)?IVF{_N}(?:_HNSW{_LINKS})?,(?:{_CODES})"
)


def key_problem(key: str) -> str:
    """Return what is wrong with a key of FAISS' index factory, and the way out; "" if nothing is,
    whatever the vectors' width.

    FAISS refuses few of them: a number of 0 crashes its process, a graph of 1 link asks for all
    memory. Fewer than 4 bits distinguish too little, more than 12 take too long to train.
    """
    if _KEY.fullmatch(key):
        return ""
    return (
        f"{key!r} is not a key that this pipeline builds; write `auto`, or one such as `Flat`, "
        "`HNSW32`, `IVF1024,SQ8` or `OPQ64_512,IVF4096_HNSW32,PQ64x8`, with numbers from 1, graphs "
        "of 2 links or more, and codes of 4 to 12 bits"
    )


def _require_key(key: str) -> str:
    if key != "auto" and (problem := key_problem(key)):
        raise ValueError(problem)
    return key


class IndexConfig(Section):
    """The FAISS index."""

    key: Annotated[str, AfterValidator(_require_key)] = "auto"
    exact_below: NonNegativeInt = 200_000
    memory_gib: PositiveFloat | None = None
    target_recall: Fraction = 0.95
    rerank: int | None = Field(default=None, ge=1, le=1_000)
    recall_queries: PositiveInt = 200
    min_recall: Fraction = 0.9
    min_recall_100: Fraction = 0.5
