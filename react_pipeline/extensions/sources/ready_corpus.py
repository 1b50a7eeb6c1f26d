"""Ready embeddings as a corpus: an inventory of the files; nothing is copied.

Does not belong here: the files' layout and its checks (`ready_layout`), `corpus_embeddings` of this
kind (`ready_embeddings`).
"""

from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from react_pipeline.extensions.sources.kinds import ReadyEmbeddings
from react_pipeline.extensions.sources.ready_layout import (
    Part,
    check_values,
    find_parts,
    reasons_to_convert,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.store import Artifact, Scratch, remembered_sha256

FILES_FILE = "files.parquet"


def publish_inventory(project: Project, config: ReadyEmbeddings) -> Artifact:
    """Publish the artifact `corpus` of kind `embeddings`: the inventory of the files.

    Its file is `files.parquet` (name, bytes, sha256). Counted are vectors that are not of unit
    length (`not_unit`), and why the files cannot be linked (`convert`).

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
        not_unit = check_values(folder, parts)
        files.to_parquet(staging / FILES_FILE, index=False)
        return {
            "shards": len(parts),
            "bytes": int(files["bytes"].sum()),
            "pairs": sum(part.rows for part in parts),
            "dimension": parts[0].dimension,
            "not_unit": not_unit,
            "convert": reasons_to_convert(parts, not_unit),
        }

    content = files[["name", "sha256"]].to_numpy().tolist()
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
