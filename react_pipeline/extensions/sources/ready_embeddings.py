"""Ready embeddings as `corpus_embeddings`: linked, or converted where that cannot be, with the
proof that the configured encoder made them.

Does not belong here: the inventory of the files (`ready_layout`), reading rows (`embedding`).
Shapes: N rows, D width.
"""

import json
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from react_pipeline.clip import Clip, choose_device, load
from react_pipeline.corpus import open_table, progress, text_batches
from react_pipeline.embedding import GROUPS_FILE, METADATA, UNIT_TOLERANCE, part_file
from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.extensions.sources.ready_layout import (
    FILES_FILE,
    Part,
    find_parts,
    measured_files,
)
from react_pipeline.extensions.sources.vector_files import DAMAGED_REMEDY, vector_blocks
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.stage import encoder_in
from react_pipeline.store import Artifact, CorpusError, Scratch

SAMPLED_CAPTIONS = 64
MIN_ENCODER_SIMILARITY = 0.98
"""Mean cosine of re-encoded captions with their ready vectors. Half precision and other kernels
cost about 0.001; two different CLIPs of one width agree to about 0."""
SAMPLED_PAIRS = 256
MIN_STANDARD_ERRORS = 4.0
"""Of the mean by which an image is closer to its own caption than to those of others. With another
CLIP that is 0.
"""
FEW_PARTS = 8
"""Fewer are looked at as a whole, of more the beginnings."""
BATCH_ROWS = 8_192
"""Rows of metadata that are written, and captions that are encoded, at once."""


def adopt_embeddings(project: Project, config: ReadyEmbeddings) -> Artifact:
    """Publish the artifact `corpus_embeddings` of kind `embeddings`.

    Files that can be used as they are get links in the layout of our own; others are converted
    once (`converted`; `normalised` counts their vectors that are not of unit length); a killed
    build resumes. Metadata is written with `url` and `caption` in place of the configured columns.
    Vectors of another CLIP would be searched without an error and find nonsense, so the configured
    encoder encodes captions from all over the corpus. They must agree with their ready vectors, or,
    where only images have vectors, be closer to their own images than to others.

    Raises:
        CorpusError: If width or sampled vectors show another encoder, a vector has no direction, or
            the files have changed since `corpus`.
    """
    inputs = resolve(project, "corpus_embeddings")
    corpus = inputs.parents["corpus"]
    base = inputs.parents[encoder_in(inputs.parents)]
    parts = find_parts(config)
    recorded = pd.read_parquet(corpus.file(FILES_FILE))
    changed = recorded.merge(measured_files(project, config, parts), "outer", indicator=True)
    for name in changed.loc[changed["_merge"] != "both", "name"]:
        raise CorpusError(
            f"{config.embeddings / name}: is missing or has changed; materialize `corpus` again"
        )

    def write(staging: Path, scratch: Scratch) -> dict[str, Any]:
        clip = load(base.path, choose_device(project.config.device))
        proof = _proof(clip, parts, config)
        made = Counter(converted=0, normalised=0, captions_encoded=0)
        for number, part in enumerate(progress(parts, "adopting", "part", len(parts))):
            write_part = partial(_write_part, clip, config, part, number)
            made.update(scratch.build(str(number), staging, write_part))
            for side, source in part.sides if part.rows else ():
                path = staging / part_file(side, number)
                if not path.exists():
                    path.parent.mkdir(exist_ok=True)
                    path.symlink_to((config.embeddings / source).resolve())
        lines = (json.dumps({"rows": part.rows}) + "\n" for part in parts)
        (staging / GROUPS_FILE).write_text("".join(lines))
        return {
            "rows": corpus.counts["pairs"],
            "dimension": parts[0].dimension,
            "skipped": 0,
            "reasons": {},
            **proof,
            **made,
        }

    return project.store.build(inputs, write)


def _write_part(
    clip: Clip, config: ReadyEmbeddings, part: Part, number: int, into: Path
) -> Counter[str]:
    """Write the metadata of a part, and the vectors that cannot be linked: unit rows in float16."""
    made = Counter[str]()
    if part.rows:
        captions = _write_metadata(into / part_file(METADATA, number), part, config)
        for side, name in part.sides:
            path, source = into / part_file(side, number), config.embeddings / name
            if not name:
                _encode(clip, captions, path)
                made["captions_encoded"] += part.rows
            elif (not_unit := _count_not_unit(source)) or source.suffix != ".npy":
                _convert(source, path, part)
                made.update(converted=1, normalised=not_unit)
    return made


def _count_not_unit(path: Path) -> int:
    """Read every vector once, a block at a time; return how many are not of length 1.

    Raises:
        CorpusError: Naming the file and the row of a vector that is not finite or zero.
    """
    others = 0
    for start, block in vector_blocks(path):
        lengths = np.linalg.norm(block.astype(np.float32), axis=1)
        # A NaN compares as false, so it counts as bad.
        for row in np.flatnonzero(~((lengths > 0) & (lengths < np.inf)))[:1]:
            raise CorpusError(
                f"{path}: row {start + row} has length {lengths[row]:.4g}, so it has no direction; "
                f"{DAMAGED_REMEDY}"
            )
        others += int((np.abs(lengths - 1) > UNIT_TOLERANCE).sum())
    return others


def _write_metadata(path: Path, part: Part, config: ReadyEmbeddings) -> list[str]:
    """Write the metadata of a part, with our names of columns, and return its captions."""
    ours = {field.removesuffix("_column"): name for field, name in config.columns().items()}
    with open_table(config.embeddings / part.metadata) as file:
        table = file.read()
    texts = {
        our: pc.fill_null(table[name].cast(pa.large_string()), "") for our, name in ours.items()
    }
    digests = pa.array([""] * len(table), pa.large_string())
    # A file may use our name for something else, which then gives way.
    taken = (*ours, *ours.values(), "image_sha256")
    others = {name: table[name] for name in table.column_names if name not in taken}
    path.parent.mkdir()
    written = pa.table({**texts, "image_sha256": digests, **others})
    pq.write_table(written, path, row_group_size=BATCH_ROWS)
    return list(texts["caption"].to_pylist())


def _convert(source: Path, path: Path, part: Part) -> None:
    path.parent.mkdir()
    shape = (part.rows, part.dimension)
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    for start, block in vector_blocks(source):
        vectors[start : start + len(block)] = unit(block)
    vectors.flush()


def _encode(clip: Clip, captions: list[str], path: Path) -> None:
    path.parent.mkdir()
    batches = (captions[at : at + BATCH_ROWS] for at in range(0, len(captions), BATCH_ROWS))
    vectors = [clip.encode_texts(batch).numpy().astype(np.float16) for batch in batches]
    np.save(path, np.concatenate(vectors))


def unit(vectors: NDArray[np.generic]) -> NDArray[np.float32]:
    """Scale rows to length 1; those without a direction become NaN."""
    exact = vectors.astype(np.float32)
    with np.errstate(invalid="ignore"):
        rows: NDArray[np.float32] = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return rows


def _proof(clip: Clip, parts: list[Part], config: ReadyEmbeddings) -> dict[str, float]:
    folder = config.embeddings
    if clip.dimension != parts[0].dimension:
        raise CorpusError(
            f"{folder}: vectors of {parts[0].dimension} numbers, the configured encoder makes "
            f"{clip.dimension}; set "
            "`encoder`, or `retrieval_encoder` alone, to the CLIP that made them"
        )
    has_text = bool(parts[0].text)
    size = SAMPLED_CAPTIONS if has_text else SAMPLED_PAIRS
    captions, ready = _sample(parts, config, size)
    if not captions:
        raise CorpusError(
            f"{folder}: every sampled caption is empty; name the right column in "
            "corpus.caption_column"
        )
    encoded = clip.encode_texts(captions).numpy()
    advice = (
        "Set `encoder` (model and pretrained weights), or `retrieval_encoder` alone, to the CLIP "
        "that made them, check corpus.caption_column, or embed the pairs again from their shards"
    )
    if has_text:
        similarity = float((encoded * ready).sum(axis=1).mean())
        if not similarity >= MIN_ENCODER_SIMILARITY:
            raise CorpusError(
                f"{folder}: these vectors come from another CLIP or other captions: "
                f"{len(captions)} captions encoded by the configured encoder agree with their "
                f"vectors to {similarity:.3f} on average, {MIN_ENCODER_SIMILARITY} is needed. "
                f"{advice}"
            )
        return {"encoder_similarity": round(similarity, 5)}
    errors = standard_errors_closer(encoded, ready)
    if not errors >= MIN_STANDARD_ERRORS:
        raise CorpusError(
            f"{folder}: these vectors come from another CLIP, or the captions belong to other "
            f"images: {len(captions)} images are closer to their own captions by {errors:.1f} "
            f"standard errors, {MIN_STANDARD_ERRORS} are needed. {advice}"
        )
    return {"encoder_standard_errors": round(errors, 2)}


def standard_errors_closer(text: NDArray[np.float32], image: NDArray[np.float32]) -> float:
    """Return by how many standard errors each image is closer to its own caption than to the
    others, both (N, D).
    """
    similarities = image @ text.T
    own = np.diag(similarities)
    closer = own - (similarities.sum(axis=1) - own) / max(len(own) - 1, 1)
    return (
        float(closer.mean() / max(closer.std() / np.sqrt(len(own)), 1e-9)) if len(own) > 1 else 0.0
    )


def _sample(
    parts: list[Part], config: ReadyEmbeddings, size: int
) -> tuple[list[str], NDArray[np.float32]]:
    """Return captions from all over the corpus, and their unit vectors; of images where captions
    have none. Empty captions are left out, and vectors without a direction, which are refused when
    all are read. Of one part of many the beginning is looked at.

    Raises:
        CorpusError: Naming a file, if no vector has a direction.
    """
    filled = [part for part in parts if part.rows]
    spread = np.unique(np.linspace(0, len(filled) - 1, min(size, len(filled))).astype(int))
    captions: list[str] = []
    vectors = [np.empty((0, parts[0].dimension), np.float32)]
    for part in (filled[number] for number in spread):
        batches = text_batches(config.embeddings / part.metadata, [config.caption_column])
        some = islice(batches, None if len(filled) < FEW_PARTS else 1)
        texts = [text or "" for batch in some for text in batch.column(0).to_pylist()]
        rows = np.flatnonzero([bool(text.strip()) for text in texts])
        if not len(rows):
            continue
        rows = rows[np.unique(np.linspace(0, len(rows) - 1, -(-size // len(spread))).astype(int))]
        captions += [texts[row] for row in rows]
        for start, block in vector_blocks(config.embeddings / (part.text or part.image)):
            here = rows[(rows >= start) & (rows < start + len(block))] - start
            vectors.append(block[here].astype(np.float32))
            if start + len(block) > rows[-1]:
                break
    ready = unit(np.concatenate(vectors))
    good = np.flatnonzero(np.isfinite(ready).all(axis=1))
    if captions and not len(good):
        for part in filled:
            _count_not_unit(config.embeddings / (part.text or part.image))
    return [captions[row] for row in good], ready[good]
