"""Configuration of the FAISS index: `index:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: what a key means and which one `auto` takes
(`indexing.keys`), building an index (`indexing.build`).
"""

from __future__ import annotations

from pydantic import Field

from react_pipeline.settings.training import Fraction, Section

_CODES = r"Flat|SQ(?:fp16|4|6|8)|PQ\d+(?:x\d+)?"
KEY_PATTERN = (
    rf"^(?:auto|Flat|SQ(?:fp16|4|6|8)|HNSW\d+(?:_SQ(?:fp16|8))?|(?:OPQ\d+(?:_\d+)?,)?IVF\d+(?:_HNSW\d+)?,(?:{_CODES}))$"
)


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
        retrain_factor: A corpus that has grown by more than this since the training is indexed from scratch.
        recall_queries: How many held-out queries measure recall@10 and @100; as many others serve the tuning.
        min_recall: The check fails below this recall@10.
        min_recall_100: Likewise for recall@100, which lies lower, since the parameters are tuned at 10.
    """

    key: str = Field(default="auto", pattern=KEY_PATTERN)
    exact_below: int = Field(default=200_000, ge=0)
    memory_gib: float | None = Field(default=None, gt=0)
    training_rows: int | None = Field(default=None, gt=0)
    target_recall: Fraction = 0.95
    rerank: int | None = Field(default=None, ge=1, le=1_000)
    retrain_factor: float = Field(default=2, ge=1)
    recall_queries: int = Field(default=200, gt=0)
    min_recall: Fraction = 0.9
    min_recall_100: Fraction = 0.5


ADDED = frozenset({"memory_gib", "training_rows", "target_recall", "rerank", "retrain_factor"})
"""Fields that a fingerprint names only where they differ from the default: indices built before them stay valid."""
