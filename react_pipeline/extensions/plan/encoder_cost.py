"""What an encoder costs: its weights are counted, its processor seconds are measured on one batch.

Does not belong here: how many images and captions there are (`estimates`).
"""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from open_clip import get_model_config
from PIL import Image

from react_pipeline.clip import (
    CONFIG_FILE,
    GATED_PREFIX,
    Clip,
    choose_precision,
    from_parts,
    read_config,
)
from react_pipeline.corpus import decode_image
from react_pipeline.embedding import CPU_IMAGES, Encoder
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.settings import MAX_PIXELS, EncoderConfig, encoders
from react_pipeline.stage import ALL
from react_pipeline.store import InputError, ReactError

STAND_IN, STAND_IN_BYTES = "ViT-B-32", 4 * 151e6
LARGEST_BYTES = 4e9
"""Larger encoders are not run; they count in proportion to the stand-in."""
GPU_PAIRS_PER_SECOND = 1_500.0
"""With a ViT-B/32 on an RTX 3080, by the README of clip-retrieval; not run here."""
BATCH_SECONDS = 0.1

Architecture = tuple[dict[str, Any], dict[str, Any], Path | None]
"""open_clip's configuration, that of its preprocessing, and the folder of its text tower."""


class EncoderCost(NamedTuple):
    """What an encoder of a project costs on a core of this machine.

    Attributes:
        dimension: Of its vectors.
        weights_bytes: Of its weights.
        prepare, image, text: Seconds to decode and prepare an image, to encode it, and to encode a
            caption.
    """

    dimension: int
    weights_bytes: float
    prepare: float
    image: float
    text: float

    @property
    def gpu_share(self) -> float:
        """Seconds of a GPU for a core's second: as when pairs are encoded."""
        size = self.weights_bytes / STAND_IN_BYTES
        return size / GPU_PAIRS_PER_SECOND / (self.image + self.text)


def encoder_cost(project: Project, config: EncoderConfig, stage: str) -> EncoderCost:
    """Count the weights of an encoder on torch's meta device, which holds none, and time it.

    What cannot be built there, such as image towers of an old timm, counts as ViT-B/32.
    """
    architecture = _architecture(project, config, stage)
    stand_in: Architecture = _named(STAND_IN), {}, None
    try:
        clip = build_empty(architecture)
    except InputError:
        clip = build_empty(stand_in)
    weights_bytes, scale = 4.0 * sum(weight.numel() for weight in clip.model.parameters()), 1.0
    if weights_bytes >= LARGEST_BYTES:
        clip, scale = build_empty(stand_in), weights_bytes / STAND_IN_BYTES
    prepare, image, text = time_encoder(clip)
    return EncoderCost(
        architecture[0]["embed_dim"], weights_bytes, prepare, scale * image, scale * text
    )


def build_empty(architecture: Architecture) -> Clip:
    """Build an architecture on torch's meta device."""
    with torch.device("meta"):
        return from_parts(None, *architecture)


def _architecture(project: Project, config: EncoderConfig, stage: str) -> Architecture:
    """Return the architecture of an encoder; ViT-B/32's where only weights would say."""
    folders = [Path(config.pretrained)] if config.pretrained else []
    with suppress(ReactError):  # it may be damaged
        if published := fresh_or_none(project, stage, ALL):
            folders.append(published.path)
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            return *read_config(folder), folder
    if built := encoders().get(config.model):
        return built.architecture()
    return _named(config.model.removeprefix(GATED_PREFIX)), {}, None


def _named(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a name, with its own text tower in place of the Hub's."""
    cfg = get_model_config(name) or get_model_config(STAND_IN)
    from_hub = ("hf_", "tokenizer_")
    text_cfg = {
        key: cfg["text_cfg"][key] for key in cfg["text_cfg"] if not key.startswith(from_hub)
    }
    return {**cfg, "text_cfg": text_cfg}


def time_encoder(clip: Clip) -> tuple[float, float, float]:
    """Measure one core on a JPEG of 256 pixels and captions of eight words: seconds to prepare an
    image, to encode it, and to encode a caption.

    All weights are made 0, which costs as much as others. Layers are not fused, as a long run may
    do.
    """
    clip.model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*clip.model.parameters(), *clip.model.buffers()):
            tensor.zero_()
    encoder = Encoder(clip, choose_precision("auto", "cpu"))
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "jpeg")

    def prepared(count: int) -> torch.Tensor:
        images = [decode_image(file.getvalue(), MAX_PIXELS) for _ in range(count)]
        return torch.stack([encoder.to_tensor(image) for image in images])

    texts = [f"a photo of a bird, number {number} of many" for number in range(2 * CPU_IMAGES)]
    tokens, images = clip.tokenizer(texts), prepared(CPU_IMAGES)
    return (
        core_seconds(prepared, CPU_IMAGES),
        core_seconds(lambda count: encoder.images(images[:count]), CPU_IMAGES),
        core_seconds(lambda count: encoder.texts(tokens[:count]), len(tokens)),
    )


def core_seconds(work: Callable[[int], object], most: int) -> float:
    """Return the processor seconds of one core for one of many; other processes change it little.

    Args:
        work: Does so many at once. It is called with 1, which also chooses kernels, then with as
            many as fit `BATCH_SECONDS`.
        most: How many it can do at most.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def timed(count: int) -> float:
        began = time.process_time()
        work(count)
        return (time.process_time() - began) / count

    try:
        timed(1)
        once = timed(1)
        count = min(most, int(BATCH_SECONDS / max(once, 1e-6)))
        return timed(count) if count > 1 else once
    finally:
        torch.set_num_threads(threads)
