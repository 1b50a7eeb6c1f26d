"""Tar shards in clip-benchmark's layout, read by the offsets of their members."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from support.drawings import write_shard
from support.elevater import Trap, png

from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled import Unavailable
from react_pipeline.store import InputError

NAMES = dataset("cifar-10").class_names[::-1]
VOC = "voc-2007-classification"


def npy(row: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(row), allow_pickle=True)
    return buffer.getvalue()


def write_webdataset(root: Path, name: str = "cifar-10", names: tuple[str, ...] = NAMES) -> Path:
    """Two shards of one image a class; labels are positions in `names`."""
    folder = root / name / "test"
    rows = np.eye(len(names), dtype=np.int64)
    for shard in range(2):
        samples = {}
        for position in range(len(names)):
            label = {"npy": npy(rows[position])} if name == VOC else {"cls": b"%d" % position}
            image = {("png", "webp", "jpg")[position % 3]: png(position, f"{shard}{position}")}
            samples[f"s{shard}{position:02d}"] = label | image
        write_shard(folder / f"{shard}.tar", samples)
    (folder / "nshards.txt").write_text("2\n")
    (root / name / "classnames.txt").write_text("\n".join(names) + "\n")
    return folder


def test_labels_are_joined_by_the_names_of_classnames_txt(tmp_path: Path) -> None:
    write_webdataset(tmp_path)
    images = read_dataset(tmp_path, "cifar-10", "test")
    assert images.layout == "webdataset"
    assert images.labels.tolist() == list(range(10))[::-1] * 2
    assert images.locations[0] == "cifar-10/test/0.tar@s000"
    assert [images.read(position) for position in (0, 19)] == [png(0, "00"), png(9, "19")]
    assert pickle.loads(pickle.dumps(images)).digest() == images.digest()  # noqa: S301


def test_rows_of_a_multilabel_set_are_joined_by_name(tmp_path: Path) -> None:
    write_webdataset(tmp_path, VOC, dataset(VOC).class_names[::-1])
    images = read_dataset(tmp_path, VOC, "test")
    assert images.labels.shape == (40, 20)
    assert images.labels.argmax(axis=1).tolist() == list(range(20))[::-1] * 2


def test_missing_class_names_and_shard_counts_are_unavailable(tmp_path: Path) -> None:
    folder = write_webdataset(tmp_path)
    for path in (folder.parent / "classnames.txt", folder / "nshards.txt"):
        path.unlink()
        with pytest.raises(Unavailable, match=path.name):
            read_dataset(tmp_path, "cifar-10", "test")


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"cls": b"10", "png": b"x"}, "no valid label"),
        ({"png": b"x"}, "no valid label"),
        ({"cls": b"1"}, "no image"),
    ],
)
def test_sample_without_image_or_valid_label_is_refused_by_name(
    tmp_path: Path, sample: dict[str, bytes], message: str
) -> None:
    write_shard(write_webdataset(tmp_path) / "1.tar", {"bad": sample})
    with pytest.raises(InputError, match=f"1.tar@bad: has {message}"):
        read_dataset(tmp_path, "cifar-10", "test")


def test_a_pickled_label_row_is_refused_and_not_run(tmp_path: Path) -> None:
    folder = write_webdataset(tmp_path, VOC, dataset(VOC).class_names)
    hostile = npy(np.array([Trap(tmp_path / "ran")], dtype=object))
    write_shard(folder / "1.tar", {"bad": {"npy": hostile, "png": b"x"}})
    with pytest.raises(InputError, match="no valid label"):
        read_dataset(tmp_path, VOC, "test")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("count", ["", "two", "3"])
def test_a_wrong_number_of_shards_is_refused(tmp_path: Path, count: str) -> None:
    folder = write_webdataset(tmp_path)
    (folder / "nshards.txt").write_text(count, encoding="utf-8")
    with pytest.raises(InputError, match=r"nshards\.txt|no shard"):
        read_dataset(tmp_path, "cifar-10", "test")


def test_a_shard_that_is_cut_or_missing_is_named(tmp_path: Path) -> None:
    path = write_webdataset(tmp_path) / "1.tar"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="1.tar.*copy the shard again"):
        read_dataset(tmp_path, "cifar-10", "test")
    path.unlink()
    with pytest.raises(InputError, match=r"says 2, but these are missing\n  1.tar"):
        read_dataset(tmp_path, "cifar-10", "test")
