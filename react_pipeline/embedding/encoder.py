"""A model as embedding runs it: both towers without gradients and needless work.

Does not belong here: the towers' arithmetic (`clip`), reading images (`images`). Shapes: B
images, N texts, L token ids, D embedding dimension, H x W pixels.
"""

from collections.abc import Sequence
from contextlib import suppress

import torch
import torch.nn.functional as functional
from torch import Tensor

from react_pipeline.clip import (
    DTYPES,
    Clip,
    ImageTower,
    Pixels,
    arithmetic,
    choose_precision,
    compiled,
    compiles,
    encode_text,
    free_bytes,
    half_blocks,
    is_out_of_memory,
    row_bytes,
    text_blocks,
    text_lengths,
)
from react_pipeline.embedding.fused import IMAGES_AT_ONCE, Features, convert
from react_pipeline.store import InputError

CPU_IMAGES, CPU_TOKENS = 32, 512
"""Images, and token ids with padding, of one pass on a processor: what passes between two layers
stays in its cache.
"""
GPU_TOKENS = 1 << 17
LONG_RUN = 500
"""Images from which the seconds of a conversion are won back. Measured: 1 to 2 s, then 2 to 3 times
the speed.
"""

PROBED_TEXTS = 16
"""Texts on which a converted tower is checked, the longest and the shortest ones of a batch."""


class Encoder:
    """Unit vectors of images and texts, float32 on the CPU, within rounding of the model's own.

    Attributes:
        to_tensor: RGB image to what `images` takes a batch of; the first half of the model's
            preprocessing.
        precision: What the towers compute in: `fp32`, `bf16` or `fp16`.
        whole_pass: Images to which a shorter batch is filled up, at the same cost; 1: none is.

    Equal texts of a batch are encoded once.
    """

    def __init__(self, clip: Clip, precision: str, *, rows: int = 0) -> None:
        """Use `clip`, which is in eval mode, in a `precision`: half precision by autocast where
        that is exact enough.

        With half precision a second copy of the matrices is held, half the size of the first.

        Args:
            rows: About how many images or texts will follow. Many hundred justify some seconds of
                preparation: on a CPU, towers that are not open_clip's own transformers get fused
                layers (texts: in fp32 alone). On a GPU many million are compiled for.
        """
        self.clip = clip
        self.precision = choose_precision(precision, clip.device)
        self._dtype = DTYPES[self.precision]
        is_compiled = compiles("auto", clip.device, rows)
        self._tower = ImageTower(clip.model, is_compiled=is_compiled)
        self._text_blocks = text_blocks(clip.model)
        if self._dtype != torch.float32:
            self._tower.use_half(self._dtype)
            self._text_blocks = half_blocks(self._text_blocks, self._dtype)
        if not self._tower.blocks:
            # Convolutions are laid out by channels; a transformer's only one takes its patches as
            # it likes.
            clip.model.visual.to(memory_format=torch.channels_last)
        on_cpu = clip.device == "cpu"
        fuses = on_cpu and rows >= LONG_RUN
        self.whole_pass = 1
        self._images_at_once = CPU_IMAGES if on_cpu else None
        self._tokens_at_once = CPU_TOKENS if on_cpu else GPU_TOKENS
        # None: converted when the first batch shows what to compare both ways on.
        self._image_features: Features | None = self._tower
        self._text_features: Features | None = self._torch_texts
        if is_compiled and self._text_blocks:
            self._text_features = compiled(self._torch_texts)
        if fuses and self.precision != "fp16" and not self._tower.native:
            self._image_features = None
            self.whole_pass = IMAGES_AT_ONCE
            self._images_at_once = IMAGES_AT_ONCE * torch.get_num_threads()
        if fuses and self.precision == "fp32" and not self._text_blocks:
            self._text_features = None
        self.to_tensor = Pixels(clip.preprocess)

    @torch.inference_mode()
    def images(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W), as `to_tensor` gives them or float32 and normalised, to unit
        vectors (B, D).
        """
        parts = []
        for part in images.split(self._images_at_once or len(images)):
            on_device = part.to(self.clip.device, non_blocking=True)
            if on_device.dtype == torch.uint8:
                on_device = self.to_tensor.normalised(on_device)
            if not self._tower.blocks:
                on_device = on_device.contiguous(memory_format=torch.channels_last)
            if self._image_features is None:
                probes = [on_device, on_device[:1]]
                self._image_features = convert(
                    self._tower, self.clip.model.visual, probes, self.precision
                )
            parts.append(self._vectors(self._image_features, on_device, self._tower))
        return torch.cat(parts).cpu()

    @torch.inference_mode()
    def texts(self, tokens: Tensor) -> Tensor:
        """Map token ids (N, L) to unit vectors (N, D); parts of like length pad little."""
        tokens, place = torch.unique(tokens, dim=0, return_inverse=True)
        lengths = text_lengths(self.clip.model, tokens)
        order = lengths.argsort(stable=True)
        if self._text_features is None:
            longest = order[-PROBED_TEXTS:]
            shortest = order[:PROBED_TEXTS]
            probes = [tokens[some, : int(lengths[some].max())] for some in (longest, shortest)]
            self._text_features = convert(
                self._torch_texts, self.clip.model, probes, self.precision, texts=True
            )
        vectors = torch.empty(len(tokens), self.clip.dimension)
        for part in parts_of_like_length(lengths[order].tolist(), self._tokens_at_once):
            chosen = order[part]
            cut = tokens[chosen, : int(lengths[chosen[-1]])].to(self.clip.device)
            encoded = self._vectors(self._text_features, cut, self._torch_texts)
            vectors[chosen] = encoded.cpu()
        return vectors[place]

    def _vectors(self, run: Features, batch: Tensor, plain: Features) -> Tensor:
        """Encode a batch on the device as unit vectors (B, D).

        Args:
            plain: The same as `run` in single operations, whose memory can be counted.

        Raises:
            InputError: If memory runs out, with how many rows fit.
        """
        try:
            with arithmetic(), self._autocast():
                return functional.normalize(run(batch).float(), dim=-1)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise

        def encode(count: int) -> list[Tensor]:
            with self._autocast():
                return [plain(batch[:count].clone())]

        # Here the frames of the error no longer hold the memory.
        fits = ""
        if self.clip.device != "cpu":  # whose free memory is not known
            with suppress(torch.OutOfMemoryError):  # not even a few rows fit
                each, free = row_bytes(encode, len(batch)), free_bytes(self.clip.device)
                if each:
                    fits = f", which need {each:,} bytes each; about {free // each:,} fit"
        raise InputError(
            f"embedding.batch_size: out of memory with {len(batch):,} rows at once on "
            f"{self.clip.device}{fits}: lower it, or use a device with more memory"
        )

    def _torch_texts(self, tokens: Tensor) -> Tensor:
        return encode_text(self.clip.model, tokens, self._text_blocks)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.clip.device, self._dtype, enabled=self._dtype != torch.float32)


def parts_of_like_length(lengths: Sequence[int], tokens_at_once: int) -> list[slice]:
    """Cut rows of ascending length into parts that hold `tokens_at_once` token ids at most, padding
    counted.

    A part has one row at least.
    """
    parts = []
    start = 0
    for position, length in enumerate(lengths):
        if position > start and (position + 1 - start) * length > tokens_at_once:
            parts.append(slice(start, position))
            start = position
    return [*parts, slice(start, len(lengths))] if lengths else []
