"""Ready embeddings that cannot be used in place, written once in the layout of our own.

Does not belong here: which files are adopted in place, and the proof of the encoder (`embeddings`).
Shapes: N rows, D width.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from react_pipeline.clip import Clip
from react_pipeline.corpus import text_batches
from react_pipeline.embedding import FOLDERS, GROUPS_FILE, METADATA, Rows, starts_of
from react_pipeline.extensions.ready.corpus import ROWS_FILE
from react_pipeline.extensions.ready.corpus_kind import ReadyEmbeddings
from react_pipeline.extensions.ready.layout import Part, caption_columns, captions_of, unit
from react_pipeline.extensions.ready.vector_files import vector_blocks
from react_pipeline.store import Artifact, CorpusError, Scratch

ENCODED_CAPTIONS = 8_192

logger = logging.getLogger(__name__)


def converted(
    clip: Clip,
    corpus: Artifact,
    folder: Path,
    parts: list[Part],
    config: ReadyEmbeddings,
    staging: Path,
    scratch: Scratch,
) -> dict[str, Any]:
    """Write `img_emb/`, `text_emb/` (float16 unit rows), `metadata/` and `groups.jsonl`; a killed
    run resumes.

    Returns:
        Counts: why it was converted, vectors that were normalised, captions that were encoded.
    """
    logger.info("ready embeddings are converted once: %s", ", ".join(corpus.counts["convert"]))
    chosen = np.load(corpus.file(ROWS_FILE), mmap_mode="r") if config.subset else None
    starts = starts_of([part.rows for part in parts])
    digits = len(str(len(parts) - 1))
    rows = []
    with tqdm(
        total=corpus.counts["pairs"], desc="converting", unit="row", disable=None, leave=False
    ) as bar:
        for number, part in enumerate(parts):

            def write(into: Path, number: int = number, part: Part = part) -> int:
                kept = np.arange(part.rows)
                if chosen is not None:
                    first, last = np.searchsorted(chosen, starts[number : number + 2])
                    kept = np.asarray(chosen[first:last] - starts[number])
                names = {
                    name: into / name / f"{name}_{number:0{digits}d}"
                    for name in (*FOLDERS.values(), METADATA)
                }
                if len(kept):
                    _convert_part(clip, folder, part, kept, config, names)
                return len(kept)

            count = scratch.build(str(number), staging, write)
            rows.append(count)
            bar.update(count)
    (staging / GROUPS_FILE).write_text(
        "".join(json.dumps({"rows": count}) + "\n" for count in rows)
    )
    return {
        "ready": False,
        "converted": corpus.counts["convert"],
        "normalised": corpus.counts["not_unit"],
        "captions_encoded": 0 if parts[0].text else sum(rows),
    }


def _convert_part(
    clip: Clip,
    folder: Path,
    part: Part,
    kept: Rows,
    config: ReadyEmbeddings,
    names: dict[str, Path],
) -> None:
    columns = list(
        dict.fromkeys(
            [config.url_column, *caption_columns(config), *filter(None, [config.hash_column])]
        )
    )
    table = pa.Table.from_batches(text_batches(folder / part.metadata, columns)).take(kept)
    captions = captions_of(table, config)
    described = {
        "url": table[config.url_column],
        "caption": captions,
        "image_sha256": [""] * len(kept),
    }
    if config.hash_column:
        described["hash"] = table[config.hash_column]
    for path in names.values():
        path.parent.mkdir()
    files = {name: path.with_suffix(".npy") for name, path in names.items()}
    files[METADATA] = names[METADATA].with_suffix(".parquet")
    pq.write_table(pa.table(described), files[METADATA], row_group_size=65_536)
    for side, source in ((FOLDERS["image"], part.image), (FOLDERS["text"], part.text)):
        shape = (len(kept), part.dimension)
        vectors = np.lib.format.open_memmap(files[side], mode="w+", dtype=np.float16, shape=shape)
        if source:
            for start, block in vector_blocks(folder / source):
                first, last = np.searchsorted(kept, (start, start + len(block)))
                if block.shape[1] != part.dimension:
                    raise CorpusError(
                        f"{folder / source}: vectors of {block.shape[1]} and {part.dimension} "
                        "numbers"
                    )
                vectors[first:last] = unit(block[kept[first:last] - start])
        else:
            for start in range(0, len(kept), ENCODED_CAPTIONS):
                some = captions[start : start + ENCODED_CAPTIONS]
                vectors[start : start + len(some)] = clip.encode_texts(some).numpy()
        vectors.flush()
