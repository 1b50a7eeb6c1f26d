"""Ready embeddings as `corpus_embeddings`, with the proof that the configured encoder made them.

Belongs here: adopting them. Does not belong here: the inventory of their files (`sources.ready_embeddings`), reading
rows (`vectors`). Nothing is copied and nothing is embedded again. Shapes: N rows, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from react_pipeline.corpus import FILES_FILE, PARTS_FILE, Part
from react_pipeline.embedding.parts import Parts, starts_of, vectors_of
from react_pipeline.embedding.vectors import READY_FILE
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, remembered_sha256

SAMPLED_CAPTIONS = 64
MIN_ENCODER_SIMILARITY = 0.98
"""Mean cosine of re-encoded captions with their ready vectors. Half precision and other kernels cost about 0.001; two
different CLIPs of one width agree to about 0."""


def adopt_embeddings(project: Project) -> Artifact:
    """Publish the artifact `corpus_embeddings` of kind `embeddings`: `ready.json`, which names the files in place.

    Vectors of another CLIP would be searched without an error and find nonsense. So the configured encoder
    encodes `SAMPLED_CAPTIONS` captions from all over the corpus, and they must agree with their ready vectors.

    Raises:
        CorpusError: If width or sampled vectors show another encoder, or the files have changed since `corpus`.
    """
    inputs = resolve(project, "corpus_embeddings")
    corpus, base = inputs.parents["corpus"], inputs.parents["base_checkpoint"]
    config = project.config.corpus
    folder = config.embeddings
    if folder is None:
        raise CorpusError("corpus.embeddings: names no folder; kind `embeddings` needs it")
    parts = [Part(**row) for row in pd.read_parquet(corpus.file(PARTS_FILE)).to_dict("records")]
    files = pd.read_parquet(corpus.file(FILES_FILE))
    for row in files.itertuples():
        if not (folder / row.name).is_file() or remembered_sha256(project.store.root, folder / row.name) != row.sha256:
            raise CorpusError(f"{folder / row.name}: is missing or has changed; materialize `corpus` again")

    def write(staging: Path) -> dict[str, Any]:
        similarity = _encoder_similarity(project, base, folder, parts)
        ready = {
            "folder": str(folder),
            "columns": {"url": config.url_column, "caption": config.caption_column},
            "files": files[["name", "sha256"]].to_numpy().tolist(),
            "rows": [part.rows for part in parts],
        }
        (staging / READY_FILE).write_text(json.dumps(ready, indent=1))
        return {
            "rows": corpus.counts["pairs"],
            "dimension": corpus.counts["dimension"],
            "skipped": 0,
            "reasons": {},
            "ready": True,
            "encoder_similarity": round(similarity, 5),
        }

    return project.store.build(inputs, write)


def _encoder_similarity(project: Project, base: Artifact, folder: Path, parts: list[Part]) -> float:
    from react_pipeline.clip import choose_device, load

    clip = load(base.path, choose_device(project.config.device))
    if clip.dimension != parts[0].dimension:
        raise CorpusError(
            f"{folder}: vectors of {parts[0].dimension} numbers, the configured encoder makes {clip.dimension}; set "
            "`encoder` to the CLIP that made them"
        )
    rows, captions = _sampled_captions(folder, parts, project.config.corpus.caption_column)
    if not len(rows):
        raise CorpusError(f"{folder}: every sampled caption is empty; name the right column in corpus.caption_column")
    starts = starts_of([part.rows for part in parts])
    ready = vectors_of(Parts(folder, [part.text for part in parts], starts), rows, clip.dimension)
    encoded = clip.encode_texts(captions).numpy()
    lengths = np.linalg.norm(ready, axis=1)
    similarity = float(((encoded * ready).sum(axis=1) / lengths).mean())
    if not similarity >= MIN_ENCODER_SIMILARITY:
        raise CorpusError(
            f"{folder}: these vectors come from another CLIP or other captions: {len(rows)} captions encoded by the "
            f"configured encoder agree with their vectors to {similarity:.3f} on average, {MIN_ENCODER_SIMILARITY} is "
            "needed. Set `encoder` (model and pretrained weights) to the CLIP that made them, check "
            "corpus.caption_column, or embed the pairs again from their shards"
        )
    return similarity


def _sampled_captions(folder: Path, parts: list[Part], column: str) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Rows spread over the corpus, and their captions, less the empty ones."""
    total = sum(part.rows for part in parts)
    chosen = np.unique(np.linspace(0, total - 1, min(SAMPLED_CAPTIONS, total)).astype(np.int64))
    rows, captions, start = [], [], 0
    for part in parts:
        inside = chosen[(chosen >= start) & (chosen < start + part.rows)]
        if len(inside):
            file, before = pq.ParquetFile(folder / part.metadata), start
            for group in range(file.num_row_groups):
                end = before + file.metadata.row_group(group).num_rows
                here = inside[(inside >= before) & (inside < end)]
                if len(here):
                    texts = file.read_row_group(group, columns=[column]).column(0).take(here - before).to_pylist()
                    kept = [(row, text) for row, text in zip(here, texts, strict=True) if text and text.strip()]
                    rows += [row for row, _ in kept]
                    captions += [text for _, text in kept]
                before = end
        start += part.rows
    return np.array(rows, dtype=np.int64), captions
