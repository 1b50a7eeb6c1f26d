"""Configuration of the embedding: `embedding:` of `pipeline.yaml`.

Belongs here: its fields, their defaults and rules. Does not belong here: what is done with them (`embed`).
"""

from pydantic import Field

from react_pipeline.settings.training import Precision, Section


class EmbeddingConfig(Section):
    """How images and texts become vectors. Only `precision` changes the vectors; the rest is speed.

    Attributes:
        batch_size: Pairs read and sorted at once; a processor encodes them in smaller parts.
        shards_per_group: Shards per group, the unit that is resumed and taken over (one output file each of images,
            texts and metadata).
        workers: Decoding processes; 0 decodes in the main process.
        precision: Arithmetic of the towers, here and where a domain's labelled images are evaluated. `auto`: what the
            device runs fastest; bf16 vectors have a mean cosine above 0.999 with those of fp32.
    """

    precision: Precision = "auto"
    batch_size: int = Field(default=256, gt=0)
    shards_per_group: int = Field(default=1, gt=0)
    workers: int = Field(default=2, ge=0)
