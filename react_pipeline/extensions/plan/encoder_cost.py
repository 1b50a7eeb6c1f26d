"""What an encoder costs: its operations and bytes are counted without computing, its processor
seconds are measured on one batch.

Belongs here: one image, one caption, one step of a training. Does not belong here: how many there
are (`sums`).
"""

import io
import time
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from open_clip import get_model_config
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from react_pipeline.clip import (
    CONFIG_FILE,
    GATED_PREFIX,
    Clip,
    ImageTower,
    build,
    choose_precision,
    encode_text,
    read_config,
    text_lengths,
    trains_images,
    trains_text,
)
from react_pipeline.corpus import decode_image
from react_pipeline.embedding import CPU_IMAGES, Encoder
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.settings import MAX_PIXELS, EncoderConfig, TrainingConfig, encoders
from react_pipeline.stage import ALL
from react_pipeline.store import ReactError
from react_pipeline.training import ModelMethod, may_keep

STAND_IN = "ViT-B-32"
STAND_IN_OPERATIONS, STAND_IN_BYTES = 2 * (4.409e9 + 2.980e9), 4 * 151e6
LARGEST = 50
"""Encoders with more operations than so many ViT-B/32 are not run; they count in proportion to it.
"""
GPU_PAIRS_PER_SECOND = 1_500.0
"""With a ViT-B/32 on an RTX 3080, by the README of clip-retrieval; not run here."""
BATCH_SECONDS = 0.3


@dataclass(frozen=True)
class EncodingCost:
    """Seconds of one core to decode and prepare an image, to encode it, and to encode a caption."""

    prepare: float
    image: float
    text: float


@dataclass(frozen=True)
class StepCost:
    """Seconds of one core for an image's frozen part, and for a pair in a step.

    Attributes:
        splits: Whether the frozen part may be kept.
        has_texts: Whether the text tower trains, so that a step encodes its texts.
    """

    frozen: float
    pair: float
    splits: bool
    has_texts: bool


class EncoderCost:
    """What an encoder of a project costs on a core of this machine, or on a GPU.

    Attributes:
        dimension: Of its vectors.
        weights_bytes: Of its weights.
        size: Operations of a pair, in those of a ViT-B/32.
    """

    def __init__(self, project: Project, config: EncoderConfig, stage: str) -> None:
        """Count the encoder on torch's meta device, which computes nothing.

        What cannot be built or run there, such as image towers of an old timm, counts as ViT-B/32.
        """
        self._architecture = _architecture(project, config, stage)
        self._precision = choose_precision("auto", "cpu")
        self._steps: dict[tuple[str, int], StepCost] = {}
        self.dimension = self._architecture[0]["embed_dim"]
        try:
            self.size, self.weights_bytes = _counted(self._architecture)
        except Exception:  # whatever an architecture raises where tensors have no values
            self.size, self.weights_bytes = 1.0, STAND_IN_BYTES

    @cached_property
    def _run(self) -> tuple[Clip, float]:
        """The model that is run, with random weights, and what its seconds are multiplied by."""
        if self.size < LARGEST:
            with suppress(ReactError):
                return _in_eval_mode(build(*self._architecture)), 1.0
        return _in_eval_mode(build(_named(STAND_IN), {})), self.size

    @cached_property
    def encoding(self) -> EncodingCost:
        """Seconds to encode, measured when first asked for."""
        return measure_encoding(*self._run, self._precision)

    def training_seconds(
        self, method: ModelMethod, training: TrainingConfig, pairs: int, texts: int
    ) -> float:
        """Seconds of one core for a whole training; a step of the method is measured.

        Args:
            pairs: Pairs that it is trained on.
            texts: How many different texts they have, with prompts.
        """
        key = (method.name, training.last_k_layers)
        if key not in self._steps:
            self._steps[key] = measure_step(*self._run, method, training, self._precision)
        step, encoding = self._steps[key], self.encoding
        images = training.images(lambda: pairs)
        once = may_keep(training, splits=step.splits)
        prepared = pairs if once else images
        frozen = prepared * (encoding.prepare + step.frozen)
        return frozen + images * step.pair + (0 if step.has_texts else texts * encoding.text)

    @property
    def gpu_share(self) -> float:
        """Seconds of a GPU for a core's second: as when pairs are encoded."""
        return self.size / GPU_PAIRS_PER_SECOND / (self.encoding.image + self.encoding.text)


Architecture = tuple[dict[str, Any], dict[str, Any], Path | None]
"""open_clip's configuration, that of its preprocessing, and the folder of its text tower."""


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
        model_cfg, preprocess_cfg, tokenizer = built.architecture()
        return model_cfg, preprocess_cfg, tokenizer.parent
    return _named(config.model.removeprefix(GATED_PREFIX)), {}, None


def _named(name: str) -> dict[str, Any]:
    """open_clip's configuration of this name, with its own text tower in place of the Hub's."""
    cfg = get_model_config(name) or get_model_config(STAND_IN)
    from_hub = ("hf_", "tokenizer_")
    text_cfg = {
        key: cfg["text_cfg"][key] for key in cfg["text_cfg"] if not key.startswith(from_hub)
    }
    return {**cfg, "text_cfg": text_cfg}


def _counted(architecture: Architecture) -> tuple[float, float]:
    """Operations of a pair, in those of a ViT-B/32, and bytes of the weights."""
    with torch.device("meta"):
        clip = build(*architecture)
    pixels = clip.preprocess(Image.new("RGB", (8, 8)))[None].to("meta")
    tokens = clip.tokenizer(["a"]).to("meta")
    with FlopCounterMode(display=False) as operations:
        clip.model.encode_image(pixels)
        with suppress(Exception):  # a text tower of transformers looks at values: the smaller part
            clip.model.encode_text(tokens)
    weights_bytes = 4.0 * sum(parameter.numel() for parameter in clip.model.parameters())
    return operations.get_total_flops() / STAND_IN_OPERATIONS, weights_bytes


def _in_eval_mode(clip: Clip) -> Clip:
    clip.model.eval()
    return clip


def core_seconds(work: Callable[[int], object], most: int) -> float:
    """Return the processor seconds of one core for one of many; other processes change it little.

    Args:
        work: Does so many at once. It is called with 1, which also chooses kernels, then with as
            many as fit `BATCH_SECONDS`.
        most: How many it can do at most.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # random weights may give many, which are slow

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
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def measure_encoding(clip: Clip, scale: float, precision: str) -> EncodingCost:
    """Measure one core on a JPEG of 256 pixels and captions of eight words, as in embedding."""
    file = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").save(file, "jpeg")
    data = file.getvalue()
    encoder = Encoder(clip, precision, long_run=True)
    tokens = _captions(clip, 2 * CPU_IMAGES)

    def prepared(count: int) -> torch.Tensor:
        images = [decode_image(data, MAX_PIXELS) for _ in range(count)]
        return torch.stack([encoder.to_tensor(image) for image in images])

    images = prepared(CPU_IMAGES)
    image = core_seconds(lambda count: encoder.images(images[:count]), CPU_IMAGES)
    text = core_seconds(lambda n: encoder.texts(tokens[:n]), len(tokens))
    prepare = core_seconds(prepared, CPU_IMAGES)
    return EncodingCost(prepare, scale * image, scale * text)


def measure_step(
    clip: Clip, scale: float, method: ModelMethod, training: TrainingConfig, precision: str
) -> StepCost:
    """Take a step of a method with a copy of the model."""
    model: Any = deepcopy(clip.model)
    method.attach(model, training)
    method.set_trainable(model)
    tower = ImageTower(model) if trains_images(model) else None
    bf16 = precision == "bf16"
    if tower is not None and bf16:
        tower.use_bf16("cpu")
    splits = tower is None or tower.splits
    size = clip.preprocess_cfg["size"]
    images = torch.zeros(CPU_IMAGES, 3, *((size, size) if isinstance(size, int) else size))
    tokens = _captions(clip, CPU_IMAGES)
    tokens = tokens[:, : int(text_lengths(model, tokens).max())]
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, fused=True)

    @torch.no_grad()
    def frozen(count: int) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16 and tower is not None):
            return tower.tokens(images[:count]) if tower else model.encode_image(images[:count])

    inputs = frozen(CPU_IMAGES).float() if splits else images

    def step(count: int) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            features = []
            if tower is not None:
                features.append((tower.features if splits else tower)(inputs[:count]))
            if trains_text(model):
                features.append(encode_text(model, tokens[:count]))
        torch.cat(features).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    kept = scale * core_seconds(frozen, CPU_IMAGES) if splits else 0.0
    return StepCost(kept, scale * core_seconds(step, CPU_IMAGES), splits, trains_text(model))


def _captions(clip: Clip, count: int) -> torch.Tensor:
    texts = [f"a photo of a bird, number {number} of many" for number in range(count)]
    return clip.tokenizer(texts)
