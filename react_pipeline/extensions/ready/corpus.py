"""Ready embeddings as a corpus: an inventory of the files, and with a subset of the rows. Nothing
is copied.

Does not belong here: the files' layout and its checks (`layout`), `corpus_embeddings` of this kind
(`embeddings`).
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.corpus import remember_place, text_batches
from react_pipeline.extensions.ready.corpus_kind import ReadyEmbeddings
from react_pipeline.extensions.ready.layout import (
    Part,
    check_values,
    find_parts,
    reasons_to_convert,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, Scratch, remembered_sha256

PARTS_FILE = "parts.parquet"
FILES_FILE = "files.parquet"
ROWS_FILE = "rows.npy"
"""With a subset: the rows that are in it, ascending."""
_UID = np.dtype("u8,u8")


def publish_inventory(project: Project, config: ReadyEmbeddings) -> Artifact:
    """Publish the artifact `corpus` of kind `embeddings`: the inventory of the files.

    Files: `parts.parquet` (a `Part` a row), `files.parquet` (name, bytes, sha256), with a subset
    `rows.npy`. Counted are vectors that are not of unit length (`not_unit`), and why the files
    cannot be used in place (`convert`).

    The identity of the corpus is names and digests in order, so a folder that is moved stays the
    same corpus. A terabyte is read for its digests once, and a new corpus once more for its values.

    Raises:
        CorpusError: Naming the file that is missing, damaged or does not fit, or the row that has
            no direction.
    """
    folder = config.embeddings
    parts = find_parts(folder, config)
    names = list(dict.fromkeys(name for part in parts for name in part.files))
    digests = [
        remembered_sha256(project.store.root, folder / name)
        for name in tqdm(names, desc="checking files", unit="file", disable=None, leave=False)
    ]

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        pairs = sum(part.rows for part in parts)
        if config.subset is not None:
            rows = subset_rows(folder, parts, config.subset)
            np.save(staging / ROWS_FILE, rows)
            pairs = len(rows)
        not_unit = check_values(folder, parts)
        files = pd.DataFrame(
            {"name": names, "bytes": [(folder / name).stat().st_size for name in names]}
        )
        files.assign(sha256=digests).to_parquet(staging / FILES_FILE, index=False)
        pd.DataFrame(parts).to_parquet(staging / PARTS_FILE, index=False)
        return {
            "shards": len(parts),
            "bytes": int(files["bytes"].sum()),
            "pairs": pairs,
            "dimension": parts[0].dimension,
            "not_unit": not_unit,
            "convert": reasons_to_convert(folder, parts, config, not_unit),
        }

    content = [list(pair) for pair in zip(names, digests, strict=True)]
    if config.subset is not None:
        content.append(["subset", remembered_sha256(project.store.root, config.subset)])
    artifact = project.store.build(resolve(project, "corpus", content=content), write)
    remember_place(artifact, str(folder))
    return artifact


def read_parts(corpus: Artifact) -> list[Part]:
    """The parts of a published inventory."""
    rows = pd.read_parquet(corpus.file(PARTS_FILE)).to_dict("records")
    return [Part(**row) for row in rows]


def subset_rows(folder: Path, parts: list[Part], subset: Path) -> NDArray[np.int64]:
    """The rows whose `uid` is in a subset file, which DataComp publishes; 8 bytes of memory a row
    of that file.

    Raises:
        CorpusError: If it is not a sorted array of `u8,u8` (both halves of a uid), or none of its
            rows is here.
    """
    try:
        uids = np.load(subset, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a hostile header makes numpy raise nearly anything
        raise CorpusError(
            f"corpus.subset: {subset}: the .npy file is truncated or damaged ({error})"
        ) from error
    if not isinstance(uids, np.ndarray) or uids.dtype != _UID or uids.ndim != 1 or not len(uids):
        raise CorpusError(
            f"corpus.subset: {subset}: must be a non-empty array with one row `u8,u8` per uid"
        )
    high = np.ascontiguousarray(uids["f0"])
    low = uids["f1"]
    steps = high[1:] > high[:-1]
    if not (steps | ((high[1:] == high[:-1]) & (low[1:] >= low[:-1]))).all():
        raise CorpusError(f"corpus.subset: {subset}: is not sorted; write `numpy.sort` of it")
    positions = []
    start = 0
    for part in tqdm(parts, desc="choosing rows", unit="part", disable=None, leave=False):
        path = folder / part.metadata
        for batch in text_batches(path, ["uid"]):
            halves = _halves(path, batch.column(0).to_pylist())
            positions.append(start + np.flatnonzero(_is_in(halves, high, low)))
            start += len(halves)
    rows: NDArray[np.int64] = np.concatenate(positions)
    if not len(rows):
        raise CorpusError(f"corpus.subset: {subset}: none of its {len(uids):,} uids is in {folder}")
    return rows


def _halves(path: Path, uids: list[str | None]) -> NDArray[np.uint64]:
    if all(uid and len(uid) == 32 for uid in uids):
        with suppress(ValueError):
            halves = (
                np.frombuffer(bytes.fromhex("".join(filter(None, uids))), ">u8")
                .astype("u8")
                .reshape(-1, 2)
            )
            # Blanks are no error of `fromhex`.
            if len(halves) == len(uids):
                return halves
    raise CorpusError(f"{path}: a uid is not 32 hexadecimal digits")


def _is_in(
    halves: NDArray[np.uint64], high: NDArray[np.uint64], low: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    first, last = (np.searchsorted(high, halves[:, 0], side) for side in ("left", "right"))
    is_in = np.zeros(len(halves), bool)
    # Few uids share their first half, so this takes one or two rounds.
    while len(open_rows := np.flatnonzero((first < last) & ~is_in)):
        is_in[open_rows] = low[first[open_rows]] == halves[open_rows, 1]
        first[open_rows] += 1
    return is_in
