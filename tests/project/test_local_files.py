from __future__ import annotations

import os
from pathlib import Path

import pytest

from react_pipeline.project.local_files import find_files
from react_pipeline.project.spread import require_shared
from react_pipeline.store.errors import CorpusError, InputError

TARS = (".tar",), "corpus.shards"


def touch(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    return path


def test_patterns_are_sorted_and_give_each_shard_once(tmp_path: Path) -> None:
    for name in ("b/2.tar", "b/1.tar", "a/9.tar", "a/notes.txt"):
        touch(tmp_path / name)
    (tmp_path / "c.tar").symlink_to(tmp_path / "b/1.tar")
    found = find_files([str(tmp_path / name) for name in ("b/*", "**/*.tar", "c.tar")], *TARS)
    assert found == [tmp_path / name for name in ("b/1.tar", "b/2.tar", "a/9.tar")]


def test_ranges_of_local_paths_mean_shards_and_a_gap_is_named(tmp_path: Path) -> None:
    for name in ("{a}/00.tar", "{a}/01.tar", "{a}/03.tar"):
        touch(tmp_path / name)
    in_brackets = touch(tmp_path / "run [1]*" / "0.tar")
    assert find_files([str(tmp_path / "run [1]*" / "*.tar")], *TARS) == [in_brackets]
    found = find_files([str(tmp_path / "{a}" / "{00..01}.tar")], *TARS)
    assert [path.name for path in found] == ["00.tar", "01.tar"]
    with pytest.raises(CorpusError, match=r"no file or folder .*02\.tar; did you mean"):
        find_files([str(tmp_path / "{a}" / "{00..03}.tar")], *TARS)
    with pytest.raises(CorpusError, match="braces must close"):
        find_files([str(tmp_path / "{a}" / "{x}.tar")], *TARS)


def test_a_missing_folder_is_named_with_the_nearest_name(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    for name in ("dta", "dta/inside/*.parquet"):
        with pytest.raises(CorpusError, match=r"no file or folder .*dta; did you mean data\?"):
            find_files([str(tmp_path / name)], (".parquet",), "corpus.images")
    with pytest.raises(CorpusError, match="finds no .parquet file"):
        find_files([str(tmp_path / "data" / "*.parquet")], (".parquet",), "corpus.images")


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).write_bytes(b"")
    with pytest.raises(CorpusError, match=r"caf\\xe9\.tar: .*UTF-8"):
        find_files([str(tmp_path / "*.tar")], *TARS)


def test_a_store_that_a_machine_cannot_see_is_reported(tmp_path: Path) -> None:
    require_shared(tmp_path)
    with pytest.raises(InputError, match="share"):
        require_shared(tmp_path / "elsewhere")
