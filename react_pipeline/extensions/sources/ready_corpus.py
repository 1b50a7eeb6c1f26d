"""Ready embeddings as a corpus: an inventory of the files, and with a subset of the rows. Nothing
is copied.

Does not belong here: the files' layout and its checks (`ready_layout`), `corpus_embeddings` of this
kind (`ready_embeddings`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from react_pipeline.corpus import text_batches
from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.extensions.sources.ready_layout import (
    Part,
    check_values,
    find_parts,
    reasons_to_convert,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, CorpusError, Scratch, remembered_sha256

FILES_FILE = "files.parquet"
ROWS_FILE = "rows.npy"
"""With a subset: the rows that are in it, ascending."""
_UID = np.dtype("u8,u8")


def publish_inventory(project: Project, config: ReadyEmbeddings) -> Artifact:
    """Publish the artifact `corpus` of kind `embeddings`: the inventory of the files.

    Files: `files.parquet` (name, bytes, sha256), with a subset `rows.npy`. Counted are vectors that
    are not of unit length (`not_unit`), and why the files cannot be linked (`convert`).

    The identity of the corpus is names and digests in order, so a folder that is moved stays the
    same corpus. A terabyte is read for its digests once, and a new corpus once more for its values.

    Raises:
        CorpusError: Naming the file that is missing, damaged or does not fit, or the row that has
            no direction.
    """
    folder = config.embeddings
    parts = find_parts(folder, config)
    files = measured_files(project, folder, parts)

    def write(staging: Path, _: Scratch) -> dict[str, Any]:
        pairs = sum(part.rows for part in parts)
        if config.subset is not None:
            rows = subset_rows(folder, parts, config.subset)
            np.save(staging / ROWS_FILE, rows)
            pairs = len(rows)
        not_unit = check_values(folder, parts)
        files.to_parquet(staging / FILES_FILE, index=False)
        return {
            "shards": len(parts),
            "bytes": int(files["bytes"].sum()),
            "pairs": pairs,
            "dimension": parts[0].dimension,
            "not_unit": not_unit,
            "convert": reasons_to_convert(parts, config, not_unit),
        }

    content = files[["name", "sha256"]].to_numpy().tolist()
    if config.subset is not None:
        content.append(["subset", remembered_sha256(project.store.root, config.subset)])
    return project.store.build(resolve(project, "corpus", content=content), write)


def measured_files(project: Project, folder: Path, parts: list[Part]) -> pd.DataFrame:
    """Return name, bytes and SHA-256 of the files of all parts, each once."""
    names = list(dict.fromkeys(name for part in parts for name in part.files))
    digests = [
        remembered_sha256(project.store.root, folder / name)
        for name in tqdm(names, desc="checking files", unit="file", disable=None, leave=False)
    ]
    sizes = [(folder / name).stat().st_size for name in names]
    return pd.DataFrame({"name": names, "bytes": sizes, "sha256": digests})


def subset_rows(folder: Path, parts: list[Part], subset: Path) -> NDArray[np.int64]:
    """Return the rows whose `uid` is in a subset file, which DataComp publishes; the file is
    mapped.

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
    high, low = uids["f0"], uids["f1"]
    is_back = (high[1:] < high[:-1]) | ((high[1:] == high[:-1]) & (low[1:] < low[:-1]))
    if is_back.any():
        raise CorpusError(f"corpus.subset: {subset}: is not sorted; write `numpy.sort` of it")
    positions = []
    start = 0
    for part in tqdm(parts, desc="choosing rows", unit="part", disable=None, leave=False):
        path = folder / part.metadata
        for batch in text_batches(path, ["uid"]):
            asked = _halves(path, batch.column(0).to_pylist())
            places = np.searchsorted(uids, asked).clip(max=len(uids) - 1)
            positions.append(start + np.flatnonzero(uids[places] == asked))
            start += len(asked)
    rows: NDArray[np.int64] = np.concatenate(positions)
    if not len(rows):
        raise CorpusError(f"corpus.subset: {subset}: none of its {len(uids):,} uids is in {folder}")
    return rows


def _halves(path: Path, uids: list[str | None]) -> NDArray[Any]:
    try:
        halves = np.frombuffer(bytes.fromhex("".join(uid or "" for uid in uids)), ">u8")
        # Blanks are no error of `fromhex`.
        if all(uid and len(uid) == 32 for uid in uids) and len(halves) == 2 * len(uids):
            return halves.astype("u8").view(_UID)
    except ValueError:
        pass
    raise CorpusError(f"{path}: a uid is not 32 hexadecimal digits")
