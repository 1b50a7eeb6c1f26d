"""Configuration of retrieval: `retrieval:` of `pipeline.yaml` and of a domain.

Belongs here: its fields, their defaults and rules. Does not belong here: what is done with them (`retrieve`,
`ranking`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from react_pipeline.training_config import Fraction, Section


class RetrievalConfig(Section):
    """How pairs are chosen for a domain.

    Attributes:
        modes: `t2t` matches a prompt with captions, `t2i` with images; in this order of preference.
        k_per_prompt: Hits per prompt and mode (REACT counts per prompt, not per class).
        max_per_class: Cap per class after duplicates are gone; the most similar stay.
        min_per_class: A class with fewer pairs is starving.
        max_starving_fraction: Above this fraction of starving classes nothing is trained.
        min_similarity: Cosine floor per mode.
        near_duplicate_similarity: Corpus images at least this similar (cosine) to an evaluation image are removed.
        shard_pairs: Pairs per collected training shard.
    """

    modes: tuple[Literal["t2t", "t2i"], ...] = Field(default=("t2t", "t2i"), min_length=1)
    k_per_prompt: int = Field(default=50, gt=0)
    max_per_class: int = Field(default=200, gt=0)
    min_per_class: int = Field(default=1, ge=0)
    max_starving_fraction: Fraction = 0.25
    min_similarity: Mapping[Literal["t2t", "t2i"], float] = {}
    near_duplicate_similarity: float = Field(default=0.98, gt=0, le=1.01)
    shard_pairs: int = Field(default=1_000, gt=0)
