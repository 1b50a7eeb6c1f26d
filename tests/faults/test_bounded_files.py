"""FAULTS 48, 56: small or special files from outside that would take gigabytes, or be waited for
without end.
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

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from react_pipeline.clip.architecture import read_config
from react_pipeline.clip.weights import at_most, read_weights
from react_pipeline.corpus import bounded_tables, text_columns
from react_pipeline.corpus.bounded_tables import open_table, whole_table
from react_pipeline.corpus.shards import index_shard
from react_pipeline.corpus.text_columns import read_text_table, text_batches
from react_pipeline.extensions.elevater.images import read_lines
from react_pipeline.extensions.images.corpus_kind import Images
from react_pipeline.extensions.images.image_files import _read_table
from react_pipeline.extensions.predict.pictures import find_pictures
from react_pipeline.extensions.urls.corpus_kind import UrlTables
from react_pipeline.extensions.urls.tables import read_rows
from react_pipeline.labelled.kind import read_file
from react_pipeline.labelled.labels import _read_table as read_manifest_table
from react_pipeline.settings.yaml_files import read_yaml
from react_pipeline.store import bounded
from react_pipeline.store.bounded import parse_json, read_bounded
from react_pipeline.store.errors import InputError

Reader = Callable[[Path], Any]


def read_url_table(path: Path) -> None:
    list(read_rows([path], UrlTables(urls=[str(path)]), Counter()))


def read_images(path: Path) -> None:
    list(_read_table(path, Images(images=[str(path)], caption_column="url"), Counter()))  # type: ignore[arg-type]


def predict(path: Path) -> None:
    find_pictures(str(path), "url")


TABLES: dict[str, Reader] = {
    "predict": predict,
    "urls": read_url_table,
    "images": read_images,
}


def write_table(path: Path, rows: int, cell: bytes, **options: Any) -> None:
    """Of `rows` equal rows: a dictionary of one value, whose indices take no space."""
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([cell]))
    urls = pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(rows, np.int32)), pa.array([cell.decode()])
    )
    table = pa.table({"path": urls, "class": urls, "url": urls, "caption": urls, "image": values})
    pq.write_table(table, path, **options)


@pytest.mark.parametrize("name", TABLES)
def test_equal_rows_of_a_small_table_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, 1_000_000, b"x.jpg")
    assert path.stat().st_size < 20_000
    with pytest.raises(InputError, match=r"a\.parquet"):
        TABLES[name](path)


def test_equal_rows_of_a_manifest_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "a.parquet", 1_000_000, b"x.jpg")
    with pytest.raises(InputError, match=r"a\.parquet"):
        read_manifest_table(tmp_path / "a.parquet")


def test_a_page_is_refused_by_its_own_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    cells = ["x" * 1_000_000, "y"]
    pq.write_table(pa.table({"url": cells}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 20_000
    with open_table(path) as (table, densest):
        assert table.read().num_rows == 2 and densest > 400_000
    monkeypatch.setattr(bounded_tables, "MAX_PAGE_BYTES", 500_000)
    with pytest.raises(InputError, match="page"), open_table(path):
        pass
    with open_table(path, ["other"]):
        pass


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_headers_of_all_pages_are_read(tmp_path: Path, version: str, dictionary: bool) -> None:
    path, rows = tmp_path / "a.parquet", 5_000
    texts = [f"https://example.org/{number}" for number in range(rows)]
    table = pa.table({"url": texts, "number": range(rows), "list": [[1.5, 2.5]] * rows})
    pq.write_table(
        table,
        path,
        data_page_version=version,
        use_dictionary=dictionary,
        data_page_size=4_000,
        row_group_size=2_000,
        write_page_checksum=True,
    )
    with open_table(path) as (file, densest):
        assert file.read().num_rows == rows
        assert dictionary or densest >= len(texts[0])


def test_long_cells_are_refused_before_all_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.parquet"
    cells = [f"{number}" * 2_000_000 for number in range(9)]
    pq.write_table(pa.table({"text": cells}), path, compression="zstd", use_dictionary=False)
    monkeypatch.setattr(text_columns, "MAX_BATCH_BYTES", 4_500_000)
    with pytest.raises(InputError, match=": 4 rows"):  # not all 9
        next(text_batches(path, ["text"]))


@pytest.mark.parametrize("bound", ["MAX_TABLE_ROWS", "MAX_TABLE_BYTES"])
def test_a_long_table_is_refused_before_all_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["a"] * 9}), path)
    assert read_text_table(path, ["text"]).num_rows == 9
    pq.write_table(pa.table({"text": range(9)}), path)  # class names of a manifest may be numbers
    assert read_text_table(path, ["text"])["text"].to_pylist() == [*range(9)]
    monkeypatch.setattr(text_columns, bound, 8)
    with pytest.raises(InputError, match="divide"):
        read_text_table(path, ["text"])


def test_a_fault_of_the_machine_is_no_damage_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(InputError, match="memory"), whole_table(path):
        raise pa.ArrowMemoryError("malloc of size 64 failed")
    with pytest.raises(OSError) as caught, whole_table(path):
        raise OSError(errno.EMFILE, "Too many open files")
    assert caught.value.errno == errno.EMFILE


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
