"""FAULTS 57, 58: what a build resumes from is as it was written, or is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.store.durable import seal, sealed

ABOUT = {"rows": 7, "mean": 0.1, "names": ["a", "b"], "plan": [[0, 2], [2, 3]]}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    (tmp_path / "vectors").mkdir()
    (tmp_path / "vectors" / "0.npy").write_bytes(b"some bytes")
    marker = tmp_path / "scratch.json"
    seal(marker, [tmp_path / "vectors" / "0.npy"], ABOUT)
    return marker


def test_what_is_as_it_was_is_believed_in_another_place_too(marker: Path, tmp_path: Path) -> None:
    assert sealed(marker) == ABOUT
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert sealed(moved / marker.name) == ABOUT
    assert sealed(moved / "none") is None


@pytest.mark.parametrize("name", ["scratch.json", "vectors/0.npy"])
def test_no_bit_of_a_marker_or_its_file_can_change(marker: Path, name: str) -> None:
    path = marker.parent / name
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert sealed(marker) is None, bit
    path.write_bytes(whole)
    assert sealed(marker) == ABOUT


@pytest.mark.parametrize("left", [b"", b"{}", b"[1]", b"null", b'{"digest": 1}', b"\xff"])
def test_what_a_power_loss_leaves_of_a_marker_is_no_marker(marker: Path, left: bytes) -> None:
    marker.write_bytes(left)
    assert sealed(marker) is None


def test_a_file_that_is_gone_or_cannot_be_read_is_made_again(marker: Path) -> None:
    path = marker.parent / "vectors" / "0.npy"
    path.unlink()
    assert sealed(marker) is None
    path.mkdir()
    assert sealed(marker) is None
