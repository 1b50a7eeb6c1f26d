"""Embedding on a cluster: each group of shards is a task, which writes its files where the local
path writes them.

Which of two samples keeps a key depends on all shards before them. So the headers are read first, a
task a group; then this process goes through the keys in their order; then the groups are encoded,
each given its duplicates.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from tqdm import tqdm

from react_pipeline.embedding.groups import Group, Records, files_of_group, keys_in
from react_pipeline.embedding.seen_keys import Duplicates
from react_pipeline.project import require_shared
from react_pipeline.settings import PipelineConfig
from react_pipeline.store import write_atomically

if TYPE_CHECKING:
    from react_pipeline.embedding.group_encoder import GroupEncoder

_loaded: dict[Path, GroupEncoder] = {}


def write_keys(records: Records, group: Group) -> None:
    """Read the headers of a group and write the keys it holds, unless they were written before; a
    task.
    """
    require_shared(records.scratch)
    path = keys_file(records.scratch, group.number)
    if not path.exists():
        write_atomically(path, json.dumps(keys_in(records.locations, group.shards)))


def keys_file(scratch: Path, number: int) -> Path:
    """The file with the keys of an unfinished group."""
    return scratch / f"{number}.keys"


def read_keys(records: Records, group: Group) -> dict[int, list[str]]:
    """The keys of each shard, as `write_keys` wrote them, or from the headers if no task did."""
    path = keys_file(records.scratch, group.number)
    if not path.exists():
        return keys_in(records.locations, group.shards)
    return {
        int(shard): keys for shard, keys in json.loads(path.read_text(encoding="utf-8")).items()
    }


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
    group.read_headers(
        records.locations, lambda _keys: duplicates
    )  # the register of keys is elsewhere
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
