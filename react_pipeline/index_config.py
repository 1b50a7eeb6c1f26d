"""Configuration of the FAISS index: `index:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: choosing and building an index (`index`).
"""

from __future__ import annotations

from pydantic import Field

from react_pipeline.training_config import Fraction, Section


class IndexConfig(Section):
    """The FAISS index.

    Attributes:
        key: `auto` (exact up to `exact_below` rows, then HNSW), or an autofaiss key such as `Flat`, `IVF1024,Flat`,
            `HNSW32`.
        exact_below: Up to this many rows `auto` searches exactly.
        recall_queries: How many held-out queries measure recall@10.
        min_recall: The check fails below this recall@10.
    """

    key: str = Field(default="auto", pattern=r"^(auto|Flat|IVF\d+,Flat|HNSW\d+)$")
    exact_below: int = Field(default=200_000, ge=0)
    recall_queries: int = Field(default=200, gt=0)
    min_recall: Fraction = 0.9
