"""Image-text retrieval on Flickr30k and COCO: reading captioned images, and recall both ways.

Does not belong here: retrieval of training pairs (`react_pipeline.retrieval`). Shapes: N images, M
captions (several an image), D width.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from react_pipeline.extensions.predict import Picture
from react_pipeline.labelled import list_problems
from react_pipeline.lineage import fresh
from react_pipeline.project import Project
from react_pipeline.stage import BASE_CHECKPOINT, CUSTOMIZED_CHECKPOINT, method_key
from react_pipeline.store import InputError

from .protocols import load_model, read_form, require_encoder

CAPTIONS_PER_IMAGE = 5
"""Some COCO images have six or seven; the usual figures are of the first five."""
QUERIES_AT_ONCE = 1_024
KS = 1, 5, 10

Vectors = NDArray[np.float32]
Numbers = NDArray[np.int64]

Recall = dict[str, dict[int, float]]
"""`image to text`: for each k of `KS`, the fraction of the images with one of their captions among
the first k; `text to image`: the fraction of the captions with their image among the first k."""


@dataclass(frozen=True)
class CaptionedImages:
    """A set to retrieve in, in the order of its file.

    Attributes:
        images: N paths, relative to the folder of the images.
        captions: M texts.
        image_of_caption: For each caption the number of its image (M,).
        dropped: What was left out, by reason.
    """

    images: tuple[str, ...]
    captions: tuple[str, ...]
    image_of_caption: Numbers
    dropped: dict[str, int]


class _Sentence(BaseModel):
    raw: str


class _Image(BaseModel):
    filename: str
    filepath: str = ""
    split: str
    sentences: list[_Sentence]


class _Karpathy(BaseModel):
    images: list[_Image]


def read_karpathy(path: Path, split: str = "test") -> CaptionedImages:
    """Read Karpathy's JSON (`dataset_flickr30k.json`, `dataset_coco.json`).

    Raises:
        InputError: If the file cannot be read, lacks a field, or has no caption of this split.
    """
    images = read_form(path, _Karpathy, "Karpathy's JSON").images
    names: list[str] = []
    captions: list[str] = []
    owners: list[int] = []
    dropped = Counter[str]()
    for image in images:
        if image.split != split:
            continue
        texts = [text for sentence in image.sentences if (text := sentence.raw.strip())]
        dropped["empty_caption"] += len(image.sentences) - len(texts)
        dropped["more_captions_than_counted"] += len(texts[CAPTIONS_PER_IMAGE:])
        if texts:
            owners += [len(names)] * len(texts[:CAPTIONS_PER_IMAGE])
            captions += texts[:CAPTIONS_PER_IMAGE]
            names.append(str(PurePosixPath(image.filepath, image.filename)))
    if not captions:
        splits = ", ".join(sorted({image.split for image in images})) or "none"
        raise InputError(f"{path}: no captioned image of the split {split!r}; it has {splits}")
    return CaptionedImages(tuple(names), tuple(captions), np.array(owners), dict(+dropped))


def recall(image_vectors: Vectors, text_vectors: Vectors, image_of_caption: Numbers) -> Recall:
    """Return the recall both ways.

    Of equal similarities the item with the lower number ranks first, whether right or wrong: order
    decides, never luck.

    Args:
        image_vectors: Unit vectors (N, D).
        text_vectors: Unit vectors (M, D).
        image_of_caption: For each caption the number of its image (M,).
    """
    images = np.arange(len(image_vectors))
    return {
        "image to text": _recalls(image_vectors, text_vectors, images, image_of_caption),
        "text to image": _recalls(text_vectors, image_vectors, image_of_caption, images),
    }


def _recalls(
    queries: Vectors, items: Vectors, query_image: Numbers, item_image: Numbers
) -> dict[int, float]:
    right = []
    for start in range(0, len(queries), QUERIES_AT_ONCE):
        part = slice(start, start + QUERIES_AT_ONCE)
        best = np.argsort(-(queries[part] @ items.T), axis=1, kind="stable")[:, : max(KS)]
        right.append(item_image[best] == query_image[part, None])
    hits = np.concatenate(right)
    return {k: float(hits[:, :k].any(axis=1).mean()) for k in KS}


def measure_recall(
    project: Project, captioned: CaptionedImages, folder: Path, slug: str = "", method: str = "base"
) -> Recall:
    """Measure the recall of one checkpoint both ways.

    Args:
        folder: What the images' paths are relative to.
        method: How it was customized; `base` needs no domain.

    Raises:
        InputError: If an image is missing or cannot be decoded, or the method has no image tower of
            its own.
        MissingArtifact: If the checkpoint was never made.
        StaleArtifact: If it was made from other inputs than today's.
    """
    from .encoding import encode

    require_encoder(project, method)
    if missing := [name for name in captioned.images if not (folder / name).is_file()]:
        raise InputError(
            f"{folder}: {len(missing)} of {len(captioned.images)} images are "
            f"missing\n{list_problems(missing)}"
        )
    place = (CUSTOMIZED_CHECKPOINT, method_key(slug, method)) if slug else (BASE_CHECKPOINT,)
    clip = load_model(project, {place[0]: fresh(project, *place)})
    pictures = [Picture(name, folder / name) for name in captioned.images]
    vectors = encode(project.config, clip, pictures)
    texts = clip.encode_texts(captioned.captions).numpy()
    return recall(vectors, texts, captioned.image_of_caption)
