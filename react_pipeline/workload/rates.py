"""Rates and formulas: operations, bytes and hours of each kind of work, from a few measured rates.

Belongs here: what `plan` and docs/clusters.md share. Does not belong here: the size of an index (`indexing.keys`), the
choice of a search (`indexing.choice`), which steps a project has (`plan`). N rows, D width, n cells.
"""

from dataclasses import dataclass
from typing import Any, Self

from react_pipeline.indexing import SAMPLE_POINTS_PER_CELL, Key

QUERIES = 400
KMEANS_ROUNDS = 10
IMAGE_BYTES = 25_000
"""Of an image at 256 pixels; assumed."""
METADATA_BYTES = 200
"""Of a pair; assumed (115 on the demo)."""
KEY_BYTES = 30
"""Of a pair, in the register of keys."""
URL_BYTES = 160
"""Of memory a row of a table, to know repeated URLs; measured."""
ALIVE = 0.7
"""Of URLs that are some years old."""
PASSES_OF_TRAINING = 3
"""Forward and backward, in forward passes."""


@dataclass(frozen=True)
class Rate:
    """How fast something is: `value` a second, of what, and where that is from."""

    value: float
    unit: str
    source: str


RATES = {
    "embed, one core, fp32": Rate(
        9.8, "pairs", "measured here on two cores, ViT-B/32 with random weights (performance.md)"
    ),
    "embed, one core, bf16": Rate(28, "pairs", "measured here, likewise; a processor with bf16 instructions"),
    "embed, one GPU": Rate(1_500, "pairs", "README of clip-retrieval: ViT-B/32 on an RTX 3080; not run here"),
    "download, one machine": Rate(100e6 / 72_000, "URLs", "README of img2dataset: 100 million URLs in 20 hours"),
    "train cells, one core": Rate(68e9, "floating-point operations", "measured here, FAISS' k-means"),
    "add to IVF,SQfp16, one core": Rate(2_532, "rows", "measured here with 32,768 cells; as 1/n with more"),
    "add to OPQ64,IVF_HNSW32,PQ64x8, one core": Rate(6_646, "rows", "measured here with 32,768 and 65,536 cells"),
    "exact neighbours, one core": Rate(267_000, "rows", f"measured here, {QUERIES} queries"),
}

_VIT_B_32: dict[str, Any] = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 512, "layers": 12},
}


@dataclass(frozen=True)
class Encoder:
    """What a CLIP costs: its width, operations of a forward pass of one image and one caption, bytes of its weights."""

    dimension: int
    image: float
    text: float
    weights_bytes: float

    @classmethod
    def of(cls, config: dict[str, Any] | None) -> Self:
        """Of `model_cfg` of an open_clip configuration; a tower that is no ViT, or none, counts as that of ViT-B/32."""
        given = config or _VIT_B_32
        vision, text = given.get("vision_cfg", {}), given.get("text_cfg", {})
        if not isinstance(vision.get("layers"), int) or not vision.get("patch_size"):
            vision = _VIT_B_32["vision_cfg"]
        if "layers" not in text:
            text = _VIT_B_32["text_cfg"]
        size = vision.get("image_size", 224)
        tokens = (max(size) if isinstance(size, list | tuple) else size) ** 2 // vision["patch_size"] ** 2 + 1
        matrices = [12 * tower["layers"] * tower["width"] ** 2 for tower in (vision, text)]
        attention = [2 * tower["layers"] * tower["width"] for tower in (vision, text)]
        lengths = (tokens, text.get("context_length", 77))
        image, caption = (
            2.0 * length * (matrix + length * share)
            for length, matrix, share in zip(lengths, matrices, attention, strict=True)
        )
        words = text.get("vocab_size", 49_408) * text["width"]
        return cls(int(given["embed_dim"]), image, caption, 4.0 * (sum(matrices) + words))


def encoding_seconds(operations: float, *, cores: int, precision: str = "bf16", gpus: int = 0) -> float | None:
    """Of passes through towers, on cores or GPUs, in proportion to ViT-B/32; None if there are neither."""
    reference = Encoder.of(None)
    name, count = ("embed, one GPU", gpus) if gpus else (f"embed, one core, {precision}", cores)
    return operations / (RATES[name].value * (reference.image + reference.text) * count) if count else None


def download_seconds(urls: float, machines: int = 1) -> float:
    """Of URLs, most of them alive."""
    return urls / RATES["download, one machine"].value / machines


def training_core_hours(rows: int, cells: int, dimension: int = 512) -> float:
    """Of the cells of one side: every row of the sample is compared with every cell, in every round."""
    sample = min(SAMPLE_POINTS_PER_CELL * cells, rows)
    return 2 * sample * cells * dimension * KMEANS_ROUNDS / RATES["train cells, one core"].value / 3_600


def adding_core_hours(rows: int, key: Key) -> float | None:
    """Of one side; None where nothing was measured that it could follow from."""
    if key.text == "Flat":
        return 0.0
    if not key.cells:
        return None
    if key.cell_links:
        return rows / RATES["add to OPQ64,IVF_HNSW32,PQ64x8, one core"].value / 3_600
    return rows / RATES["add to IVF,SQfp16, one core"].value / 3_600 * key.cells / 32_768


def index_core_hours(rows: int, key: Key, dimension: int = 512) -> float | None:
    """Of both sides, with the exact search that recall is measured by."""
    if (adding := adding_core_hours(rows, key)) is None:
        return None
    neighbours = rows / RATES["exact neighbours, one core"].value / 3_600
    return 2 * (training_core_hours(rows, key.cells, dimension) + adding + neighbours)
