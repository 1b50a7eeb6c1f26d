"""Rates and formulas: operations, bytes and hours of each kind of work, from a few measured rates.

Belongs here: what `plan` and docs/clusters.md share. Does not belong here: the size of an index (`indexing.keys`), the
choice of a search (`indexing.choice`), which steps a project has (`plan`). N rows, D width, n cells.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from react_pipeline.indexing import SAMPLE_POINTS_PER_CELL, Key

KMEANS_ROUNDS = 10
IMAGE_BYTES = 25_000
"""Of an image at 256 pixels; assumed."""
METADATA_BYTES = 200
"""Of a pair; assumed (115 on the demo)."""
URL_BYTES = 160
"""Of memory a row of a table, to know repeated URLs; measured."""
ALIVE = 0.7
"""Of URLs that are some years old."""
PASSES_OF_TRAINING = 3
"""Forward and backward, in forward passes."""

RATES = {
    # Pairs with a ViT-B/32 of random weights, measured here on two cores (performance.md).
    "embed, one core, fp32": 9.8,
    "embed, one core, bf16": 28.0,
    # Pairs with a ViT-B/32 on an RTX 3080, by the README of clip-retrieval; not run here.
    "embed, one GPU": 1_500.0,
    # URLs: 100 million in 20 hours, by the README of img2dataset.
    "download, one machine": 100e6 / 72_000,
    # Floating-point operations of FAISS' k-means, measured here.
    "train cells, one core": 68e9,
    # Rows, measured here with 32,768 cells; as 1/n with more.
    "add to IVF,SQfp16, one core": 2_532.0,
    # Rows, measured here with 32,768 and 65,536 cells.
    "add to OPQ64,IVF_HNSW32,PQ64x8, one core": 6_646.0,
    # Rows, measured here with 400 queries.
    "exact neighbours, one core": 267_000.0,
}
"""How much of each work is done in a second."""

IMAGE_OPERATIONS, TEXT_OPERATIONS = 2 * 4.409e9, 2 * 2.980e9
"""Of a forward pass of ViT-B/32, whose rates are known; the hours of others are in proportion."""


@dataclass(frozen=True)
class EncoderCost:
    """What a CLIP costs: its width, operations of a forward pass of one image and one caption, bytes of its weights."""

    dimension: int
    image: float
    text: float
    weights_bytes: float

    @classmethod
    def of(cls, model_cfg: dict[str, Any], folder: Path | None = None) -> Self:
        """Count an architecture of open_clip on torch's meta device, which computes nothing.

        A text tower of transformers counts as open_clip's own of the size that its configuration in `folder` says, else
        as ViT-B/32's. What cannot be built or run there counts as ViT-B/32, such as image towers of an old timm.
        """
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        from react_pipeline.clip import build

        dimension, text_cfg = model_cfg["embed_dim"], _own_text_tower(model_cfg["text_cfg"], folder)
        try:
            with torch.device("meta"):
                clip = build({**model_cfg, "text_cfg": text_cfg}, {})
            pixels, tokens = clip.preprocess(Image.new("RGB", (8, 8))), clip.tokenizer(["a"])
            with FlopCounterMode(display=False) as image:
                clip.model.encode_image(pixels[None].to("meta"))
            with FlopCounterMode(display=False) as text:
                clip.model.encode_text(tokens.to("meta"))
        except Exception:  # whatever an architecture raises where tensors have no values
            return cls(dimension, IMAGE_OPERATIONS, TEXT_OPERATIONS, 4 * 151e6)
        weights_bytes = 4.0 * sum(parameter.numel() for parameter in clip.model.parameters())
        return cls(dimension, image.get_total_flops(), text.get_total_flops(), weights_bytes)


def _own_text_tower(text_cfg: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Without what is read from the Hub."""
    own = {name: value for name, value in text_cfg.items() if not name.startswith(("hf_", "tokenizer_"))}
    name = text_cfg.get("hf_model_name")
    if name and folder is not None and (folder / name / "config.json").is_file():
        from transformers import AutoConfig

        theirs = AutoConfig.from_pretrained(folder / name)
        own |= {"width": theirs.hidden_size, "heads": theirs.num_attention_heads}
        own |= {"layers": theirs.num_hidden_layers, "vocab_size": theirs.vocab_size}
    return own


def encoding_hours(operations: float, *, cores: int, precision: str = "bf16", gpus: int = 0) -> float | None:
    """Of passes through towers, on cores or GPUs; None if there are neither."""
    name, count = ("embed, one GPU", gpus) if gpus else (f"embed, one core, {precision}", cores)
    operations_per_second = RATES[name] * (IMAGE_OPERATIONS + TEXT_OPERATIONS) * count
    return operations / operations_per_second / 3_600 if count else None


def download_hours(urls: float) -> float:
    """Of URLs, most of them alive, on one machine."""
    return urls / RATES["download, one machine"] / 3_600


def training_core_hours(rows: int, cells: int, dimension: int = 512) -> float:
    """Of the cells of one side: every row of the sample is compared with every cell, in every round."""
    sample = min(SAMPLE_POINTS_PER_CELL * cells, rows)
    return 2 * sample * cells * dimension * KMEANS_ROUNDS / RATES["train cells, one core"] / 3_600


def adding_core_hours(rows: int, key: Key) -> float | None:
    """Of one side; None where nothing was measured that it could follow from."""
    if key.text == "Flat":
        return 0.0
    if not key.cells:
        return None
    if key.cell_links:
        return rows / RATES["add to OPQ64,IVF_HNSW32,PQ64x8, one core"] / 3_600
    return rows / RATES["add to IVF,SQfp16, one core"] / 3_600 * key.cells / 32_768


def index_core_hours(rows: int, key: Key, dimension: int = 512) -> float | None:
    """Of both sides, with the exact search that recall is measured by."""
    if (adding := adding_core_hours(rows, key)) is None:
        return None
    neighbours = rows / RATES["exact neighbours, one core"] / 3_600
    return 2 * (training_core_hours(rows, key.cells, dimension) + adding + neighbours)
