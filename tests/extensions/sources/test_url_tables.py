from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from react_pipeline.extensions.sources.kinds import UrlTables
from react_pipeline.extensions.sources.url_tables import find_tables, read_rows
from react_pipeline.store.errors import CorpusError

URLS = ["http://a/1", " http://a/2 ", None, "", "http://a/1", "http://a/3", "http://a/4"]
CAPTIONS = ["one", " two ", "x", "x", "other words", None, " "]


def read(
    *paths: Path, url: str = "url", caption: str = "caption"
) -> tuple[list[tuple[str, str]], Counter[str]]:
    skipped: Counter[str] = Counter()
    return [
        (row.fields["url"], row.caption) for row in read_rows(paths, columns(url, caption), skipped)
    ], skipped


def columns(
    url: str = "url", caption: str = "caption", hash_column: str | None = None
) -> UrlTables:
    names = {"url_column": url, "caption_column": caption, "hash_column": hash_column}
    return UrlTables(urls=("x",), **names)


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_unusable_rows_are_counted_and_first_equal_urls_kept(
    tmp_path: Path,
) -> None:
    first = table(tmp_path / "a.parquet", url=URLS, caption=CAPTIONS, width=list(range(7)))
    second = table(
        tmp_path / "b.parquet", url=["http://a/2", "http://a/5"], caption=["again", "five"]
    )
    rows, skipped = read(first, second)
    assert rows == [("http://a/1", "one"), ("http://a/2", "two"), ("http://a/5", "five")]
    assert skipped == {"no_url": 2, "duplicate_url": 2, "no_caption": 2}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_is_read_however_it_is_stored(tmp_path: Path, kind: pa.DataType) -> None:
    urls = pa.array(["http://a/1", None]).cast(kind)
    rows, skipped = read(table(tmp_path / "a.parquet", url=urls, caption=["one", "two"]))
    assert rows == [("http://a/1", "one")]
    assert skipped == {"no_url": 1}


def test_text_that_is_no_utf_8_is_skipped(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 2, pa.array([b"\xff\xfe", b"fine"], pa.binary()).buffers()
    )
    rows, skipped = read(
        table(tmp_path / "a.parquet", url=["http://a/1", "http://a/2"], caption=broken)
    )
    assert rows == [("http://a/2", "fine")]
    assert skipped == {"not_utf8": 1}


def test_other_column_names_are_taken_and_missing_ones_named(
    tmp_path: Path,
) -> None:
    path = table(tmp_path / "a.parquet", URL=["http://a/1"], TEXT=["one"])
    assert read(path, url="URL", caption="TEXT")[0] == [("http://a/1", "one")]
    with pytest.raises(CorpusError, match=r"a\.parquet"):
        read(path)
    with pytest.raises(CorpusError, match="corpus.caption_column"):
        read(path, url="URL")


def test_a_cut_or_damaged_table_is_refused(tmp_path: Path) -> None:
    rows = 5_000
    whole = table(
        tmp_path / "whole.parquet",
        url=[f"http://a/{number}" for number in range(rows)],
        caption=[f"words {number}" for number in range(rows)],
    ).read_bytes()
    for name, data in {
        "cut.parquet": whole[: len(whole) // 2],
        "empty.parquet": b"",
        "page.parquet": b"<html>404</html>",
        "damaged.parquet": whole[:4] + b"\xff" * (len(whole) // 2) + whole[4 + len(whole) // 2 :],
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorpusError, match=f"{name}: the parquet file is truncated"):
            read(tmp_path / name)


TSV = 'url\tcaption\nhttp://a/1\ta "quoted" word\nhttp://a/2\tone\ttoo many\nhttp://a/3\t\n'


@pytest.mark.parametrize(("head", "names"), [(True, ("url", "caption")), (False, ("0", "1"))])
def test_tsv_is_read_with_and_without_names(
    tmp_path: Path, head: bool, names: tuple[str, str]
) -> None:
    path = tmp_path / "cc12m.tsv"
    path.write_text(TSV if head else TSV.partition("\n")[2])
    assert find_tables([str(tmp_path / "*.tsv")]) == [path]
    rows, skipped = read(path, url=names[0], caption=names[1])
    assert rows == [("http://a/1", 'a "quoted" word')]
    assert skipped == {"bad_line": 1, "no_caption": 1}


@pytest.mark.parametrize(
    ("names", "expected"), [(("link", "caption"), "url_column"), (("0", "7"), "caption_column")]
)
def test_a_column_that_a_tsv_file_lacks_is_named(
    tmp_path: Path, names: tuple[str, str], expected: str
) -> None:
    (tmp_path / "a.tsv").write_text(TSV)
    with pytest.raises(CorpusError, match=rf"corpus\.{expected}"):
        read(tmp_path / "a.tsv", url=names[0], caption=names[1])


def test_hashes_go_with_their_rows(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.parquet",
        url=["http://a/1", "http://a/2"],
        caption=["x", "y"],
        sha256=["ab", None],
    )
    rows = read_rows([path], columns(hash_column="sha256"), Counter())
    assert [row.fields["hash"] for row in rows] == ["ab", ""]
