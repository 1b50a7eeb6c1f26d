"""Image-text retrieval by a checkpoint: captioned images encoded, recall both ways.

Belongs here: from files and a checkpoint to recall. Does not belong here: reading captions and counting (`image_text`).
"""

import tempfile
from pathlib import Path

import numpy as np

from react_pipeline.benchmark.features import NO_ENCODER, has_encoder
from react_pipeline.benchmark.image_text import CaptionedImages, RetrievalRecall, recall
from react_pipeline.clip import choose_device, load
from react_pipeline.labelled import PreprocessedImages, encode, lines_of
from react_pipeline.lineage import fresh
from react_pipeline.pipeline import method_key
from react_pipeline.project import Project
from react_pipeline.store import InputError


def measure_recall(
    project: Project, captioned: CaptionedImages, folder: Path, slug: str = "", method: str = "base"
) -> RetrievalRecall:
    """Recall at 1, 5 and 10 of captions by images and of images by captions.

    Args:
        folder: What the images' paths are relative to.
        slug: The domain of a customized model.
        method: How it was customized; `base` needs no domain.

    Raises:
        InputError: If an image is missing or cannot be decoded, or the method has no image tower of its own.
        MissingArtifact: If the checkpoint was never made.
        StaleArtifact: If it was made from other inputs than today's.
    """
    if not has_encoder(method):
        raise InputError(f"{method}: {NO_ENCODER}")
    missing = [name for name in captioned.images if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: {len(missing)} of {len(captioned.images)} images are missing\n{lines_of(missing)}")
    is_base = method == "base"
    checkpoint = (
        fresh(project, "base_checkpoint")
        if is_base
        else fresh(project, "customized_checkpoint", method_key(slug, method))
    )
    clip = load(checkpoint.path, choose_device(project.config.device))
    paths = [folder / name for name in captioned.images]
    images = PreprocessedImages(
        lambda number: paths[number].read_bytes(),
        lambda number: str(paths[number]),
        clip.preprocess,
        project.config.corpus.max_pixels,
    )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "images.npy"
        embedding = project.config.embedding
        encode(clip, images, len(paths), file, batch_size=embedding.batch_size, workers=embedding.workers)
        features = np.load(file, allow_pickle=False)
    vectors = features / np.linalg.norm(features, axis=1, keepdims=True)
    texts = clip.encode_texts(captioned.captions).numpy()
    return recall(vectors, texts, captioned.image_of_caption)
