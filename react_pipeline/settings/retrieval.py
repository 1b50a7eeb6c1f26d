"""Configuration of the search: `index:` of `pipeline.yaml`, and `retrieval:` there and in a domain.

Belongs here: fields, their defaults and rules, and which keys of FAISS are built. Does not belong
here: what a key means (`indexing.keys`), what is done with the pairs (`retrieval`).
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt

from react_pipeline.settings.section import Fraction, Section, each_once

Mode = Literal["lexical", "t2t", "t2i", "i2i"]


@cache  # a sensor reads the same files at each tick
def _one_expression(where: str) -> str:
    try:
        import duckdb  # not at the top: few projects have a filter
    except ModuleNotFoundError:  # the light installation, which retrieves nothing
        return where
    try:
        # Alone first, so that an error is about what the user wrote. Then where only one expression
        # may be: no list, alias, clause or second statement.
        queries = (f"SELECT {where}", f"SELECT CASE WHEN\n{where}\nTHEN 1 END")
        # Closed, its threads end; the default connection keeps them, in processes that fork too.
        with duckdb.connect(config={"threads": 1}) as connection:
            for query in queries:
                connection.extract_statements(query)
    except duckdb.Error as error:
        problem = str(error).splitlines()[0].removeprefix("Parser Error: ")
        raise ValueError(f"{where!r} is not one SQL expression: {problem}") from error
    return where


class RetrievalConfig(Section):
    """How pairs are chosen for a domain, whose own fields win over those of the pipeline."""

    modes: Annotated[tuple[Mode, ...], AfterValidator(each_once)] = Field(
        default=("t2t", "t2i"), min_length=1
    )
    fusion: Literal["preference", "filter"] = "preference"
    choose: Literal["nearest", "all"] = "nearest"
    rank: Literal["classes", "prompts"] = "classes"
    k_per_prompt: PositiveInt = 50
    search: Literal["auto", "index", "exact"] = "auto"
    max_per_class: PositiveInt = 200
    max_pairs: PositiveInt | None = None
    min_per_class: NonNegativeInt = 1
    max_starving_fraction: Fraction = 0.25
    min_similarity: Mapping[Literal["lexical", "t2t", "t2i", "i2i", "filter"], float] = {}
    duplicate_similarity: float = Field(default=1.01, gt=0, le=1.01)
    near_duplicate_similarity: float = Field(default=0.98, gt=0, le=1.01)
    decontaminate: Literal["own", "all"] = "own"
    same_subject: Literal["keep", "exclude"] = "keep"
    where: Annotated[str, AfterValidator(_one_expression)] | None = Field(
        default=None, min_length=1
    )
    shard_pairs: PositiveInt = 1_000

    @property
    def uses_seeds(self) -> bool:
        """Whether seed images are searched with."""
        return "i2i" in self.modes

    @property
    def takes_all(self) -> bool:
        """Whether a class has no cap: all pairs are taken, or each prompt's nearest."""
        return self.choose == "all" or self.rank == "prompts"

    @property
    def filters(self) -> bool:
        """Whether images are compared with their class, to order the pairs or for a floor."""
        return self.fusion == "filter" or "filter" in self.min_similarity

    @property
    def searches_images(self) -> str:
        """The setting that needs a vector of every image of the corpus; "" if none does."""
        modes = [mode for mode in self.modes if mode in ("t2i", "i2i")]
        if modes:
            return f"modes: [{', '.join(modes)}]"
        return "fusion: filter" if self.fusion == "filter" else ""


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
    train_on: Literal["faiss-gpu"] | None = None
    target_recall: Fraction = 0.95
    rerank: int | None = Field(default=None, ge=1, le=1_000)
    recall_queries: PositiveInt = 200
    min_recall: Fraction = 0.9
    min_recall_100: Fraction = 0.5
