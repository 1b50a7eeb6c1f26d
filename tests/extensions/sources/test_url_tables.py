from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from react_pipeline.extensions.sources.kinds import UrlTables
from react_pipeline.extensions.sources.url_tables import read_rows
from react_pipeline.store import CorpusError

URLS = ["http://a/1", " http://a/2 ", None, "", "http://a/1", "http://a/3", "http://a/4"]
CAPTIONS = ["one", " two ", "x", "x", "other words", None, " "]


Rows = list[tuple[str, str]]


def read(*paths: Path, url: str = "url", caption: str = "caption") -> tuple[Rows, Counter[str]]:
    skipped: Counter[str] = Counter()
    corpus = UrlTables(urls=("x",), url_column=url, caption_column=caption)
    rows = [(row.fields["url"], row.caption) for row in read_rows(paths, corpus, skipped)]
    return rows, skipped


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_unusable_rows_are_counted_and_first_equal_urls_kept(
    tmp_path: Path,
) -> None:
    first = table(tmp_path / "a.parquet", url=URLS, caption=CAPTIONS, width=URLS)
    second = table(tmp_path / "b.parquet", url=[URLS[1], "http://a/5"], caption=["again", "five"])
    rows, skipped = read(first, second)
    assert rows == [("http://a/1", "one"), ("http://a/2", "two"), ("http://a/5", "five")]
    assert skipped == {"no_url": 2, "duplicate_url": 2, "no_caption": 2}


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_text_is_read_however_it_is_stored(tmp_path: Path, kind: pa.DataType) -> None:
    urls = pa.array(["http://a/1", None, "http://a/2"]).cast(kind)
    texts = pa.array([b"one", b"two", b"\xff\xfe"], pa.binary()).buffers()
    captions = pa.Array.from_buffers(pa.string(), 3, texts)  # the last one is no UTF-8
    rows, skipped = read(table(tmp_path / "a.parquet", url=urls, caption=captions))
    assert rows == [("http://a/1", "one")]
    assert skipped == {"no_url": 1, "not_utf8": 1}


def test_other_column_names_are_taken_and_missing_ones_named(
    tmp_path: Path,
) -> None:
    columns = {"url_column": "URL", "caption_column": "TEXT", "hash_column": "sha256"}
    path = table(tmp_path / "a.parquet", URL=["1", "2"], TEXT=["x", "y"], sha256=["ab", None])
    rows = [*read_rows([path], UrlTables(urls=("x",), **columns), Counter())]
    assert [(row.caption, *row.fields.values()) for row in rows] == [
        ("x", "1", "ab"),
        ("y", "2", ""),
    ]
    with pytest.raises(CorpusError, match=r"a\.parquet"):
        read(path)
    with pytest.raises(CorpusError, match="corpus.caption_column"):
        read(path, url="URL")


def test_a_cut_or_damaged_table_is_refused(tmp_path: Path) -> None:
    texts = [*map(str, range(5_000))]
    whole = table(tmp_path / "whole.parquet", url=texts, caption=texts).read_bytes()
    middle = len(whole) // 2
    for name, data in {
        "cut": whole[:middle],
        "empty": b"",
        "page": b"<html>404</html>",
        "damaged": whole[:4] + b"\xff" * middle + whole[4 + middle :],
    }.items():
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=f"{path.name}: the parquet file is truncated"):
            read(path)


TSV = 'url\tcaption\nhttp://a/1\ta "quoted" word\nhttp://a/2\tone\ttoo many\nhttp://a/3\t\n'


@pytest.mark.parametrize(("head", "names"), [(True, ("url", "caption")), (False, ("0", "1"))])
def test_tsv_is_read_with_and_without_names(
    tmp_path: Path, head: bool, names: tuple[str, str]
) -> None:
    path = tmp_path / "cc12m.tsv"
    path.write_text(TSV if head else TSV.partition("\n")[2])
    assert UrlTables(urls=[str(tmp_path / "*.tsv")]).sources() == [path]
    rows, skipped = read(path, url=names[0], caption=names[1])
    assert rows == [("http://a/1", 'a "quoted" word')]
    assert skipped == {"bad_line": 1, "no_caption": 1}
    with pytest.raises(CorpusError, match=r"corpus\.caption_column"):
        read(path, url=names[0], caption="7" if names[0] == "0" else "link")
    with pytest.raises(CorpusError, match=r"corpus\.url_column"):
        read(path, url="7" if names[0] == "0" else "link", caption=names[1])
