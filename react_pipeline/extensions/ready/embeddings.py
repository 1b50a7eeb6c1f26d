"""Ready embeddings as `corpus_embeddings`, with the proof that the configured encoder made them.

Does not belong here: the inventory of the files (`corpus`), converting files (`conversion`),
reading rows (`embedding.vectors`). Shapes: N rows, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from react_pipeline.clip import Clip, choose_device, load
from react_pipeline.embedding import FOLDERS, METADATA, READY_FILE, Rows, holding, starts_of
from react_pipeline.extensions.ready.conversion import converted
from react_pipeline.extensions.ready.corpus import FILES_FILE, read_parts
from react_pipeline.extensions.ready.corpus_kind import ReadyEmbeddings
from react_pipeline.extensions.ready.layout import Part, caption_columns, captions_of, unit
from react_pipeline.extensions.ready.vector_files import take_rows, take_vectors
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, CorpusError, Scratch, remembered_sha256

SAMPLED_CAPTIONS = 64
MIN_ENCODER_SIMILARITY = 0.98
"""Mean cosine of re-encoded captions with their ready vectors. Half precision and other kernels
cost about 0.001; two different CLIPs of one width agree to about 0."""
SAMPLED_PAIRS = 256
MIN_STANDARD_ERRORS = 4.0
"""Of the mean by which an image is closer to its own caption than to those of others. With another
CLIP that is 0.
"""


def adopt_embeddings(project: Project, config: ReadyEmbeddings) -> Artifact:
    """Publish the artifact `corpus_embeddings` of kind `embeddings`.

    Files that can be used in place are named in `ready.json`; others are converted once, into the
    layout of our own. Vectors of another CLIP would be searched without an error and find nonsense,
    so the configured encoder encodes captions from all over the corpus. They must agree with their
    ready vectors, or, where only images have vectors, be closer to their own images than to others.

    Raises:
        CorpusError: If width or sampled vectors show another encoder, or the files have changed
            since `corpus`.
    """
    inputs = resolve(project, "corpus_embeddings")
    corpus = inputs.parents["corpus"]
    base = inputs.parents[encoder_in(inputs.parents)]
    folder = config.embeddings
    parts = read_parts(corpus)
    files = pd.read_parquet(corpus.file(FILES_FILE))
    for row in files.itertuples():
        if (
            not (folder / row.name).is_file()
            or remembered_sha256(project.store.root, folder / row.name) != row.sha256
        ):
            raise CorpusError(
                f"{folder / row.name}: is missing or has changed; materialize `corpus` again"
            )

    def write(staging: Path, scratch: Scratch) -> dict[str, Any]:
        clip = load(base.path, choose_device(project.config.device))
        counts = {
            "rows": corpus.counts["pairs"],
            "dimension": corpus.counts["dimension"],
            "skipped": 0,
            "reasons": {},
            "ready": True,
            **_proof(clip, folder, parts, config),
        }
        if corpus.counts["convert"]:
            return {**counts, **converted(clip, corpus, folder, parts, config, staging, scratch)}
        columns = {
            "url": config.url_column,
            "caption": config.caption_column,
            "hash": config.hash_column,
        }
        ready = {
            "folder": str(folder),
            "columns": {ours: theirs for ours, theirs in columns.items() if theirs},
            "digests": files.set_index("name")["sha256"].to_dict(),
            "files": {
                FOLDERS["image"]: [part.image for part in parts],
                FOLDERS["text"]: [part.text for part in parts],
                METADATA: [part.metadata for part in parts],
            },
            "rows": [part.rows for part in parts],
        }
        (staging / READY_FILE).write_text(json.dumps(ready, indent=1))
        return counts

    return project.store.build(inputs, write)


def _proof(
    clip: Clip, folder: Path, parts: list[Part], config: ReadyEmbeddings
) -> dict[str, float]:
    if clip.dimension != parts[0].dimension:
        raise CorpusError(
            f"{folder}: vectors of {parts[0].dimension} numbers, the configured encoder makes "
            f"{clip.dimension}; set "
            "`encoder`, or `retrieval_encoder` alone, to the CLIP that made them"
        )
    has_text = bool(parts[0].text)
    rows, captions = _sampled_captions(
        folder, parts, config, SAMPLED_CAPTIONS if has_text else SAMPLED_PAIRS
    )
    if not len(rows):
        raise CorpusError(
            f"{folder}: every sampled caption is empty; name the right column in "
            "corpus.caption_column"
        )
    encoded = clip.encode_texts(captions).numpy()
    ready = np.empty_like(encoded)
    for number, places, inside in holding(starts_of([part.rows for part in parts]), rows):
        # `rows` ascend, so those of a part do.
        ready[places] = take_vectors(folder / (parts[number].text or parts[number].image), inside)
    ready = unit(ready)
    advice = (
        "Set `encoder` (model and pretrained weights), or `retrieval_encoder` alone, to the CLIP "
        "that made them, check corpus.caption_column, or embed the pairs again from their shards"
    )
    if has_text:
        similarity = float((encoded * ready).sum(axis=1).mean())
        if not similarity >= MIN_ENCODER_SIMILARITY:
            raise CorpusError(
                f"{folder}: these vectors come from another CLIP or other captions: {len(rows)} "
                "captions encoded by the configured encoder agree with their vectors to "
                f"{similarity:.3f} on average, {MIN_ENCODER_SIMILARITY} is needed. {advice}"
            )
        return {"encoder_similarity": round(similarity, 5)}
    errors = standard_errors_closer(encoded, ready)
    if not errors >= MIN_STANDARD_ERRORS:
        raise CorpusError(
            f"{folder}: these vectors come from another CLIP, or the captions belong to other "
            f"images: {len(rows)} images are closer to their own captions by {errors:.1f} standard "
            f"errors, {MIN_STANDARD_ERRORS} are needed. {advice}"
        )
    return {"encoder_standard_errors": round(errors, 2)}


def standard_errors_closer(text: NDArray[np.float32], image: NDArray[np.float32]) -> float:
    """By how many standard errors each image is closer to its own caption than to the others, both
    (N, D).
    """
    similarities = image @ text.T
    own = np.diag(similarities)
    closer = own - (similarities.sum(axis=1) - own) / max(len(own) - 1, 1)
    return (
        float(closer.mean() / max(closer.std() / np.sqrt(len(own)), 1e-9)) if len(own) > 1 else 0.0
    )


def _sampled_captions(
    folder: Path, parts: list[Part], config: ReadyEmbeddings, size: int
) -> tuple[Rows, list[str]]:
    """Rows spread over the corpus, and their captions, less the empty ones."""
    total = sum(part.rows for part in parts)
    chosen = np.unique(np.linspace(0, total - 1, min(size, total)).astype(np.int64))
    captions: list[str] = []
    for number, _, inside in holding(starts_of([part.rows for part in parts]), chosen):
        for table in take_rows(folder / parts[number].metadata, inside, caption_columns(config)):
            captions += captions_of(table, config)
    kept = [bool(caption.strip()) for caption in captions]
    return chosen[kept], [caption for caption, keep in zip(captions, kept, strict=True) if keep]
