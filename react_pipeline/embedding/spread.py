"""Embedding on a cluster: each group of shards is a task, which writes its files where the local
path writes them.

Which of two samples keeps a key depends on all shards before them. So this process reads the
headers of all shards in their order; then the groups are encoded, each given its duplicates.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tqdm import tqdm

from react_pipeline.embedding.groups import Group, Records, files_of_group
from react_pipeline.embedding.seen_keys import Duplicates
from react_pipeline.project import require_shared
from react_pipeline.settings import PipelineConfig

if TYPE_CHECKING:
    from react_pipeline.embedding.group_encoder import GroupEncoder

_loaded: dict[Path, GroupEncoder] = {}


def encode_group(
    config: PipelineConfig, checkpoint: Path, records: Records, item: tuple[Group, Duplicates]
) -> dict[str, str]:
    """Bring the files and record of a group, given with its duplicates, into place; return
    `GroupEncoder.arithmetic`.

    A task. It may run twice, even at once: it works in a folder of its own, and moves what is
    complete.
    """
    group, duplicates = item
    require_shared(records.scratch)
    encoder = _encoder(config, checkpoint, records)
    if records.finished(group.number) is not None:
        return encoder.arithmetic
    # The register of keys is elsewhere.
    group.read_headers(records.locations, lambda _keys: duplicates)
    attempt = records.scratch / f"attempt-{group.number}-{uuid4().hex}"
    with tqdm(disable=True) as bar:
        for done, counts in encoder.encode(iter([group]), attempt, bar, len(group.samples)):
            for name in files_of_group(group.number, records.groups):
                if (attempt / name).exists():
                    (records.staging / name).parent.mkdir(exist_ok=True)
                    (attempt / name).replace(records.staging / name)
            records.done(done, **counts)
    shutil.rmtree(attempt, ignore_errors=True)
    return encoder.arithmetic


def _encoder(config: PipelineConfig, checkpoint: Path, records: Records) -> GroupEncoder:
    # Spark keeps its Python processes, so each loads the model once. The staging folder names the
    # whole build.
    if records.staging not in _loaded:
        from react_pipeline.embedding.group_encoder import GroupEncoder

        _loaded.clear()
        _loaded[records.staging] = GroupEncoder(
            config, checkpoint, records.locations, records.groups
        )
    return _loaded[records.staging]
