"""Configuration of the embedding: `embedding:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: what is done with them (`embed`).
"""

from pydantic import Field

from react_pipeline.settings.training import Precision, Section


class EmbeddingConfig(Section):
    """How images and texts become vectors. Only `precision` changes the vectors; the rest is speed."""

    precision: Precision = "auto"
    batch_size: int = Field(default=256, gt=0)
    shards_per_group: int = Field(default=1, gt=0)
    workers: int = Field(default=2, ge=0)
