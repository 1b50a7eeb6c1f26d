"""What encoding costs on this processor, measured on a few images and captions.

Does not belong here: how many there are (`sums`).
"""

import io
import time
from dataclasses import dataclass

import torch
from PIL import Image

from react_pipeline.clip import Clip
from react_pipeline.corpus import decode_image
from react_pipeline.embedding import CPU_IMAGES, Encoder
from react_pipeline.extensions.plan.encoder_cost import core_seconds
from react_pipeline.settings import MAX_PIXELS

METADATA_BYTES = 200
"""Metadata of a pair; assumed (115 on the demo)."""


@dataclass(frozen=True)
class EncodingCost:
    """Processor seconds: to decode and prepare an image, to encode it, to encode a caption; once,
    to fuse layers.
    """

    prepare: float
    image: float
    text: float
    start: float = 0

    @classmethod
    def measured(cls, clip: Clip, precision: str) -> "EncodingCost":
        """Measure one core on a JPEG of 256 pixels and captions of eight words, as in embedding."""
        file = io.BytesIO()
        Image.radial_gradient("L").convert("RGB").save(file, "jpeg")
        encoder = Encoder(clip, precision, long_run=True)

        def prepared(count: int) -> torch.Tensor:
            data = file.getvalue()
            return torch.stack(
                [encoder.to_tensor(decode_image(data, MAX_PIXELS)) for _ in range(count)]
            )

        def texts(count: int) -> torch.Tensor:
            captions = [f"a photo of a bird, number {number} of many" for number in range(count)]
            return encoder.texts(clip.tokenizer(captions))

        images = prepared(CPU_IMAGES)
        began = time.process_time()
        encoder.images(images)
        texts(CPU_IMAGES)
        start = time.process_time() - began
        whole = encoder.whole_pass
        passes = core_seconds(lambda n: encoder.images(images[: n * whole]), CPU_IMAGES // whole)
        return cls(
            prepare=core_seconds(prepared, CPU_IMAGES),
            image=passes / whole,
            text=core_seconds(texts, 2 * CPU_IMAGES),
            start=start,
        )
