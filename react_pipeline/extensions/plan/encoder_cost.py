"""What an encoder costs: its bytes are counted, its processor seconds are measured on one batch.

Does not belong here: how many images and captions there are (`plan`).
"""

import io
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from open_clip import get_model_config
from open_clip.utils import to_2tuple
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from react_pipeline.clip import (
    CONFIG_FILE,
    COUNTED,
    DTYPES,
    GATED_PREFIX,
    Clip,
    ImageTower,
    choose_precision,
    encode_text,
    from_parts,
    read_config,
    recompute_activations,
    row_bytes,
    trains_images,
    trains_text,
)
from react_pipeline.corpus import decode_image
from react_pipeline.embedding import CPU_IMAGES, LONG_RUN, Encoder
from react_pipeline.extensions.demo import architecture as demo_architecture
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.settings import MAX_PIXELS, EncoderConfig, TrainingConfig
from react_pipeline.stage import ALL
from react_pipeline.store import InputError, ReactError
from react_pipeline.training import STATE_BYTES, ModelMethod

STAND_IN, STAND_IN_BYTES = "ViT-B-32", 4 * 151e6
LARGEST_BYTES = 4e9
"""Larger encoders are not run; they count in proportion to the stand-in."""
GPU_PAIRS_PER_SECOND = 1_500.0
"""With a ViT-B/32 on an RTX 3080, by the README of clip-retrieval; not run here."""
BATCH_SECONDS = 0.1
_DEFAULTS = TrainingConfig()

Architecture = tuple[dict[str, Any], dict[str, Any], Path | None]
"""open_clip's configuration, that of its preprocessing, and the folder of its text tower."""


class Batch(NamedTuple):
    """The bytes of rows that are on a device at once, and of what is there beside them."""

    rows: int
    row_bytes: float
    fixed_bytes: float

    @property
    def memory(self) -> float:
        """Bytes of all."""
        return self.fixed_bytes + self.rows * self.row_bytes


class EncoderCost(NamedTuple):
    """Costs of an encoder of a project on a core of this machine.

    Attributes:
        clip: Its architecture on torch's meta device, which holds no weights.
        dimension: Of its vectors.
        weights_bytes: Of its weights.
        prepare, image, text: Seconds to decode and prepare an image, to encode it, and to encode a
            caption.
    """

    clip: Clip
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

    def batch(
        self,
        rows: int,
        precision: str,
        method: ModelMethod | None = None,
        training: TrainingConfig = _DEFAULTS,
        *,
        images: bool = True,
    ) -> Batch:
        """Count the bytes of a batch of some rows. Operations are not computed; where an
        architecture cannot be run that way, rows count as 0.

        Args:
            method: Trained with these fields; None: captions of full length are embedded, and
                `images`.
        """
        each, numbers = 0, 0
        clip = replace(self.clip, model=deepcopy(self.clip.model))
        with suppress(Exception):  # whatever an architecture raises there
            if method:
                with torch.device("meta"):
                    method.attach_to(clip, training)
            with FakeTensorMode(allow_non_fake_inputs=True):
                clip.model.to_empty(device="cpu")
                clip.model.requires_grad_(False)
                if method:
                    numbers = method.set_trainable(clip.model)
                each = _row_bytes(clip, precision, training, images)
        copies = 0 if method else self.weights_bytes / 2  # in half precision
        return Batch(rows, each, self.weights_bytes + copies + STATE_BYTES * numbers)


def encoder_cost(project: Project, config: EncoderConfig, stage: str) -> EncoderCost:
    """Count the weights of an encoder on torch's meta device, and time it.

    What cannot be built there, such as image towers of an old timm, counts as ViT-B/32.
    """
    architecture = _architecture(project, config, stage)
    dimension, scale = architecture[0]["embed_dim"], 1.0
    stand_in: Architecture = _named(STAND_IN), {}, None
    with torch.device("meta"):
        try:
            clip = from_parts(None, *architecture)
        except InputError:
            architecture, clip = stand_in, from_parts(None, *stand_in)
    weights_bytes = 4.0 * sum(weight.numel() for weight in clip.model.parameters())
    if weights_bytes >= LARGEST_BYTES:
        architecture, scale = stand_in, weights_bytes / STAND_IN_BYTES
    prepare, image, text = time_encoder(architecture)
    return EncoderCost(clip, dimension, weights_bytes, prepare, scale * image, scale * text)


def _architecture(project: Project, config: EncoderConfig, stage: str) -> Architecture:
    """Return the architecture of an encoder; ViT-B/32's where only weights would say."""
    folders = [Path(config.pretrained)] if config.pretrained else []
    with suppress(ReactError):  # it may be damaged
        if published := fresh_or_none(project, stage, ALL):
            folders.append(published.path)
    for folder in folders:
        if (folder / CONFIG_FILE).is_file():
            return *read_config(folder), folder
    if config.is_demo:
        return demo_architecture()
    return _named(config.model.removeprefix(GATED_PREFIX)), {}, None


def _named(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a name, with its own text tower in place of the Hub's."""
    cfg = get_model_config(name) or get_model_config(STAND_IN)
    from_hub = ("hf_", "tokenizer_")
    text_cfg = {
        key: cfg["text_cfg"][key] for key in cfg["text_cfg"] if not key.startswith(from_hub)
    }
    return {**cfg, "text_cfg": text_cfg}


def _row_bytes(clip: Clip, precision: str, training: TrainingConfig, with_images: bool) -> int:
    """Count the bytes of a row of images or captions, backwards too where weights train; called
    where all tensors are fake.
    """
    model, rows = clip.model, 2 * COUNTED
    trained = [one for one in model.parameters() if one.requires_grad]
    if training.activation_checkpointing:
        recompute_activations(model)
    tower = ImageTower(model)
    dtype = DTYPES.get(precision, torch.float32)
    images = torch.empty(rows, 3, *to_2tuple(model.visual.image_size))
    tokens = torch.ones(rows, clip.model_cfg["text_cfg"].get("context_length", 77)).long()

    def encode(count: int) -> Iterator[torch.Tensor]:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            if trains_images(model) if trained else with_images:
                yield tower(images[:count].clone())
            if not trained or trains_text(model):
                yield encode_text(model, tokens[:count])

    return row_bytes(encode, rows, trained)


def time_encoder(architecture: Architecture) -> tuple[float, float, float]:
    """Measure one core on a JPEG of 256 pixels and captions of eight words: seconds to prepare an
    image, to encode it, and to encode a caption, with random weights as in a long run.
    """
    clip = from_parts(None, *architecture)
    encoder = Encoder(clip, choose_precision("auto", "cpu"), rows=LONG_RUN)
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "jpeg")

    def prepared(count: int) -> torch.Tensor:
        images = [decode_image(file.getvalue(), MAX_PIXELS) for _ in range(count)]
        return torch.stack([encoder.to_tensor(image) for image in images])

    texts = [f"a photo of a bird, number {number} of many" for number in range(2 * CPU_IMAGES)]
    tokens, images = clip.tokenizer(texts), prepared(CPU_IMAGES)
    return (
        core_seconds(prepared, CPU_IMAGES),
        core_seconds(lambda n: encoder.images(images[:n]), CPU_IMAGES, encoder.whole_pass),
        core_seconds(lambda n: encoder.texts(tokens[:n]), len(tokens)),
    )


def core_seconds(work: Callable[[int], object], most: int, least: int = 1) -> float:
    """Return the processor seconds of one core for one of many; other processes change it little.

    Args:
        work: Does so many at once. It is called with `least`, which also chooses kernels, then with
            as many as fit `BATCH_SECONDS`.
        most: How many it can do at most.
        least: How many cost as much as one.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # random weights may give many, which are slow

    def timed(count: int) -> float:
        began = time.process_time()
        work(count)
        return (time.process_time() - began) / count

    try:
        timed(least)
        once = timed(least)
        passes = min(most, int(BATCH_SECONDS / max(once, 1e-6))) // least
        return timed(passes * least) if passes > 1 else once
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
