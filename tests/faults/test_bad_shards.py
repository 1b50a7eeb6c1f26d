"""FAULTS 7, 8, 9, 10: cut tars, hostile member names, duplicate keys, commands as shard names."""

from __future__ import annotations

import gzip
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from support.drawings import draw, encode, pair, write_shard
from support.upkeep import with_base

from react_pipeline.corpus import MAX_METADATA_BYTES, index_shard, publish_corpus
from react_pipeline.embedding import embed_corpus, read_metadata
from react_pipeline.project import Project
from react_pipeline.store import CorpusError

PNG = encode(draw("circle", "red", 0))


def test_a_cut_tar_is_refused_wherever_it_is_cut(drawings: Path, tmp_path: Path) -> None:
    whole = (drawings / "shards" / "00000.tar").read_bytes()
    end = max(
        sample.members["txt"].offset
        for sample in index_shard(drawings / "shards" / "00000.tar").samples
    )
    cut_shard = tmp_path / "cut.tar"
    for cut in [0, 1, 511, 512, 513, 1024, *range(2_000, end, 4_999), end, end + 512]:
        cut_shard.write_bytes(whole[:cut])
        with pytest.raises(CorpusError, match=r"cut\.tar"):
            index_shard(cut_shard)


def header(kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo("x.txt")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def flipped(whole: bytes) -> bytes:
    place = whole.index(b"000005.txt") + 150
    return whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]


SICK: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a damaged header": (flipped, "damaged|complete"),
    "two tars joined": (lambda whole: whole + whole, "end-of-archive mark"),
    # By us, or by Python before 3.11.4.
    "a negative size": (lambda _: header(b"0", -1) + bytes(1024), "negative size|invalid offset"),
    "a text": (lambda _: b"not a tar at all", "uncompressed tar"),
    "a compressed tar": (gzip.compress, "uncompressed tar"),
    "headers in a chain": (lambda _: header(b"x", 0) * 5_000 + bytes(1024), "0.tar"),
    "a long name of a terabyte": (lambda _: header(tarfile.GNUTYPE_LONGNAME, 1 << 40), "0.tar"),
    "a header of a terabyte": (lambda _: header(tarfile.XHDTYPE, 1 << 40), "0.tar"),
    "a global header of a terabyte": (lambda _: header(tarfile.XGLTYPE, 1 << 40), "0.tar"),
    "zeros without end": (lambda whole: whole, "end-of-archive"),
}


@pytest.mark.parametrize("what", SICK)
def test_a_sick_tar_is_refused_soon(drawings: Path, tmp_path: Path, what: str) -> None:
    make, words = SICK[what]
    path = tmp_path / "0.tar"
    path.write_bytes(make((drawings / "shards" / "00000.tar").read_bytes()))
    if "terabyte" in what or "zeros" in what:
        os.truncate(path, (1 << 40) + 4096)
    with pytest.raises(CorpusError, match=words):
        index_shard(path)


def test_hostile_member_names_are_refused_and_write_nothing(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    names = ("../../escape.png", "../../escape.txt", "/absolute.png", "a/../../b.png")
    good = [
        (f"good/{n}.{extension}", data)
        for n in range(3)
        for extension, data in pair("circle", "red", n).items()
    ]
    unsafe = [(name, PNG) for name in names]
    shard = write_shard(tmp_path / "deep" / "er" / "evil.tar", [*good, *unsafe])
    links = {
        "link.png": (tarfile.SYMTYPE, "/etc/passwd"),
        "hard.txt": (tarfile.LNKTYPE, "good/0.txt"),
        "device.png": (tarfile.CHRTYPE, ""),
        "folder": (tarfile.DIRTYPE, ""),
    }
    with tarfile.open(shard, "a") as tar:
        for name, (kind, target) in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    project = with_base(make_project(corpus={"shards": [str(shard)], "max_bad_fraction": 0.9}))
    artifact = embed_corpus(project)
    assert list(read_metadata(artifact)["image_path"]) == ["good/0", "good/1", "good/2"]
    ledger = pd.read_parquet(artifact.file("ledger.parquet"))
    assert dict(zip(ledger["key"], ledger["reason"], strict=True)) == {
        **dict.fromkeys(names, "unsafe_name"),
        **dict.fromkeys(["link.png", "hard.txt", "device.png"], "not_a_file"),
    }
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    inside = (tmp_path / "store", tmp_path / "domains", tmp_path / "pipeline.yaml")
    assert all(any(path.is_relative_to(place) for place in inside) for path in written)


def test_names_that_are_no_utf8_are_kept_readable(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [(b"caf\xe9.png".decode("utf-8", "surrogateescape"), PNG)])
    (sample,) = index_shard(tmp_path / "a.tar").samples
    assert sample.key == r"caf\xe9"


def test_a_key_twice_in_a_shard_names_shard_and_key(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    members = [
        ("a/x.png", PNG),
        ("a/x.txt", b"one"),
        ("b/x.png", PNG),
        ("b/x.txt", b"two"),
        ("a/x.txt", b"again"),
    ]
    shard = write_shard(tmp_path / "twice.tar", members)
    with pytest.raises(CorpusError, match=r"twice\.tar"):
        publish_corpus(make_project(corpus={"shards": [str(shard)]}))


def test_shell_words_in_a_shard_name_are_only_a_name(
    make_project: Callable[..., Project], tmp_path: Path
) -> None:
    shard = "`touch pwned` $(touch pwned) | touch pwned #.tar"
    write_shard(tmp_path / shard, {"a": pair("circle", "red", 0), "b": pair("cross", "red", 0)})
    project = with_base(make_project(corpus={"shards": [shard]}))
    assert embed_corpus(project).counts["rows"] == 2
    assert not (tmp_path / "pwned").exists() and not Path("pwned").exists()


def test_metadata_above_the_bound_are_not_read(tmp_path: Path) -> None:
    samples = {
        name: {**pair("circle", "red", 0), "json": b'{"a": "' + b"x" * size + b'"}'}
        for name, size in (("small", 1), ("vast", MAX_METADATA_BYTES))
    }
    write_shard(tmp_path / "a.tar", samples)
    samples = index_shard(tmp_path / "a.tar", {"txt": 9}).samples
    assert [sample.members["json"].data for sample in samples] == [b'{"a": "x"}', b""]
