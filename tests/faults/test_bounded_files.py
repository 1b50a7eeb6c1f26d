"""FAULTS 48, 55, 56, 58: small or special files from outside that would take gigabytes, or be
waited for without end; JSON nested too deeply is as damaged as any other that cannot be parsed.
"""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from torch import nn

from react_pipeline.clip import CONFIG_FILE, read_config, read_weights
from react_pipeline.clip.weights import at_most
from react_pipeline.corpus import index_shard, whole_table
from react_pipeline.extensions.elevater import read_lines
from react_pipeline.extensions.predict import find_pictures
from react_pipeline.extensions.predict.run_folder import RUN_FILE, _record
from react_pipeline.extensions.sources.kinds import UrlTables
from react_pipeline.extensions.sources.url_tables import read_rows
from react_pipeline.labelled import read_file
from react_pipeline.project.template import LOCK_FILE, ui_record
from react_pipeline.settings.files import read_yaml
from react_pipeline.store import CorruptArtifact, InputError, bounded, parse_json, read_bounded
from react_pipeline.use import RECORD_FILE
from react_pipeline.use.classifier import load_exported

Reader = Callable[[Path], Any]


def read_url_table(path: Path) -> None:
    list(read_rows([path], UrlTables(urls=[str(path)]), Counter()))


def predict(path: Path) -> None:
    find_pictures(str(path), "url")


def test_a_fault_of_the_machine_is_no_damage_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(OSError) as caught, whole_table(path):
        raise OSError(errno.EMFILE, "Too many open files")
    assert caught.value.errno == errno.EMFILE
    with pytest.raises(MemoryError), whole_table(path):
        raise pa.ArrowMemoryError("malloc of size 64 failed")


FIFOS: dict[str, tuple[str, Reader]] = {
    "configuration of a checkpoint": (
        "open_clip_config.json",
        lambda path: read_config(path.parent),
    ),
    "weights": ("a.safetensors", read_weights),
    "shard": ("a.tar", index_shard),
    "table": ("a.parquet", read_url_table),
    "list": ("a.txt", read_lines),
    "image": ("a.jpg", read_file),
    "settings": ("a.yaml", read_yaml),
}


@pytest.mark.parametrize("kind", FIFOS)
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    name, read = FIFOS[kind]
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="regular file"):
        read(tmp_path / name)


@pytest.mark.parametrize("read", [read_file, read_lines, read_bounded])
def test_a_sparse_file_is_not_read(tmp_path: Path, read: Reader) -> None:
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(8 << 30)
    tracemalloc.start()
    try:
        with pytest.raises((InputError, OSError), match="more than"):
            read(tmp_path / "a.jpg")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_json_is_measured_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2]}') == {"a": [1, 2]}
    monkeypatch.setattr(bounded, "MAX_JSON_BYTES", 100_000)
    with pytest.raises(ValueError, match="memory"):
        parse_json(b"[" + b"{}," * 1_000 + b"{}]")
    with pytest.raises(ValueError, match="deep"):
        parse_json(b"[" * 1_100)


SIZES = [
    ("vision_cfg", "layers", 10**9),
    ("vision_cfg", "patch_size", 1),
    ("text_cfg", "context_length", 10**6),
    ("text_cfg", "vocab_size", "many"),
]


@pytest.mark.parametrize(("tower", "field", "value"), SIZES)
def test_a_configuration_of_enormous_sizes_is_refused(
    tmp_path: Path, tower: str, field: str, value: Any
) -> None:
    model_cfg: dict[str, Any] = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
    model_cfg[tower] = {field: value}
    config = {"model_cfg": model_cfg, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=f"{tower}.{field}"):
        read_config(tmp_path)


@pytest.mark.parametrize("layers", [1, 10**9])
def test_a_model_is_built_no_larger_than_its_weights(layers: int) -> None:
    side = 20_000 if layers == 1 else 1
    with pytest.raises(ValueError, match="tensors"), at_most({"weight": torch.ones(3)}):
        nn.Sequential(*(nn.Linear(side, side) for _ in range(layers)))
    nn.Linear(100, 100)


NESTED = "[" * 100_000 + "\n"

OURS: dict[str, Reader] = {LOCK_FILE: ui_record, RUN_FILE: _record}


@pytest.mark.parametrize("file", OURS)
def test_what_is_ours_counts_as_not_written(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text(NESTED)
    assert OURS[file](tmp_path) == {}


def test_an_export_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(NESTED)
    with pytest.raises(CorruptArtifact, match="export"):
        load_exported(tmp_path)


def test_numbers_that_no_type_holds_are_typed_errors(tmp_path: Path) -> None:
    towers = '"vision_cfg": {}, "text_cfg": {}'
    (tmp_path / CONFIG_FILE).write_text(
        f'{{"model_cfg": {{"embed_dim": 1e999, {towers}}}, "preprocess_cfg": {{}}}}'
    )
    with pytest.raises(InputError, match="open_clip"):
        read_config(tmp_path)
