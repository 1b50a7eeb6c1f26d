"""Image folders, and tar shards in clip-benchmark's layout: their classes are joined with the
table's by name, whatever their order and spelling.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from support.drawings import write_shard
from support.elevater import png, write_elevater
from support.trap import Trap

from react_pipeline.extensions.elevater import digests
from react_pipeline.extensions.elevater.datasets import DATASETS, IMAGENET, dataset, read_data
from react_pipeline.extensions.elevater.images import read_picture
from react_pipeline.extensions.elevater.readers import check_splits, join_names, read_dataset
from react_pipeline.extensions.elevater.settings import TestImages
from react_pipeline.labelled import Unavailable
from react_pipeline.settings import DomainConfig
from react_pipeline.store import InputError

SST = "rendered-sst2"


def write_folders(folder: Path, names: Iterable[str]) -> Path:
    for name in names:
        (folder / name / "deeper").mkdir(parents=True)
        for image in ("0.png", "deeper/1.png"):
            (folder / name / image).write_bytes(png(0, f"{name}{image}"))
    return folder


@pytest.mark.parametrize("name", DATASETS)
def test_shuffled_names_in_another_spelling_find_their_classes(name: str) -> None:
    entry = dataset(name)
    respelt = [text.upper().replace(" ", "_") for text in entry.class_names]
    order = np.random.default_rng(1).permutation(len(respelt)).tolist()
    assert join_names(entry, [respelt[number] for number in order], Path()).tolist() == order


@pytest.mark.parametrize(
    ("name", "names"),
    [
        (
            "eurosat_clip",
            "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop "
            "Residential River SeaLake",
        ),
        ("fer-2013", "angry disgusted fearful smiling bored depressed Spooked"),
    ],
)
def test_original_names_and_aliases_mean_their_classes(name: str, names: str) -> None:
    ids = join_names(dataset(name), names.split()[::-1], Path())
    assert ids.tolist() == list(range(len(ids)))[::-1]


def test_country_codes_are_known_and_valid_is_a_name_for_val(tmp_path: Path) -> None:
    codes = read_data("other_names.json")["country211"]
    folder = write_folders(tmp_path / "country211" / "valid", codes)
    (folder / next(iter(codes)) / "notes.txt").write_text("no image")
    images = read_dataset(tmp_path, "country211", "val")
    names = [images.entry.class_names[label] for label in images.labels]
    assert names == [codes[picture.name.split("/")[2]] for picture in images.pictures]
    first = images.pictures[0]
    assert first.read() == (tmp_path / first.name).read_bytes()


def test_imagenets_folders_of_wordnet_ids_are_joined_in_order(tmp_path: Path) -> None:
    import timm.data

    names = IMAGENET.class_names
    assert join_names(IMAGENET, names, tmp_path).tolist() == list(range(1000))
    twins = [number for number, name in enumerate(names) if names.count(name) > 1]
    shown = [number for number in range(1000) if number % 100 == 7 or number in twins]
    synsets = timm.data.ImageNetInfo("imagenet1k").label_names()
    assert join_names(IMAGENET, synsets[::-1], tmp_path).tolist() == list(range(1000))[::-1]
    for number, synset in enumerate(synsets):
        folder = tmp_path / IMAGENET.name / "val" / synset
        folder.mkdir(parents=True)
        if number in shown:
            (folder / "a.JPEG").write_bytes(b"x")
    images = read_dataset(tmp_path, IMAGENET.name, "test")
    assert images.labels.tolist() == shown
    # Classes of one name keep the order of the domain.
    classes = [{"id": f"{name} ({number})", "name": name} for number, name in enumerate(names)]
    domain = DomainConfig.model_validate({"slug": "imagenet", "classes": classes})
    kind = TestImages(name="mine", path=tmp_path, dataset=IMAGENET.name)
    labels = kind.images(domain)[0]["class"]
    assert len(twins) == 4 and [int(label.rsplit("(")[1][:-1]) for label in labels] == shown


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        (SST, "negative", r"1 classes, rendered-sst2 has 2[\s\S]*left over: 'positive'"),
        (SST, "negative positive neutral", "'neutral': no class of rendered-sst2"),
        (SST, "0 1", "'0': no class of rendered-sst2"),
        (
            "fer-2013",
            "angry disgusted fearful happy smiling sad surprised",
            r"'smiling'.*already[\s\S]*left over: 'neutral'",
        ),
    ],
)
def test_names_that_do_not_match_are_refused(name: str, names: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        join_names(dataset(name), names.split(), Path())


def test_the_digest_changes_with_a_label_and_with_a_pixel(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / SST / "test", ["negative", "positive"])
    first = folder / "negative" / "0.png"
    found = set()
    for change in (
        lambda: None,
        lambda: first.write_bytes(png(0, "another")),
        lambda: first.rename(folder / "positive" / "00.png"),
    ):
        change()
        images = read_dataset(tmp_path, SST, "test")
        found.add(images.digest(digests(images.pictures)))
    assert len(found) == 3


def test_stray_images_and_empty_folders_are_refused(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / SST / "test", ["negative", "positive"])
    (folder / "stray.png").write_bytes(b"x")
    with pytest.raises(InputError, match="stray.png"):
        read_dataset(tmp_path, SST, "test")
    with pytest.raises(Unavailable):
        read_dataset(tmp_path, SST, "train")
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="no image"):
        read_dataset(tmp_path, SST, "test")


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
    assert images.pictures[0].name == "cifar-10/test/0.tar@s000"
    read = [images.pictures[position].read() for position in (0, 19)]
    assert read == [png(0, "00"), png(9, "19")]
    write_webdataset(tmp_path, VOC, dataset(VOC).class_names[::-1])
    rows = read_dataset(tmp_path, VOC, "test").labels
    assert rows.shape == (40, 20)
    assert rows.argmax(axis=1).tolist() == list(range(20))[::-1] * 2


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


def test_a_link_in_a_shard_is_refused(tmp_path: Path) -> None:
    with tarfile.open(write_webdataset(tmp_path) / "1.tar", "w") as shard:
        link = tarfile.TarInfo("a.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        shard.addfile(link)
    with pytest.raises(InputError, match=r"members refused\n.*a\.png"):
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
    write_webdataset(tmp_path)
    images = read_dataset(tmp_path, "cifar-10", "test")
    path.write_bytes(b"")
    with pytest.raises(InputError, match="1.tar: cannot be read; copy the shard again"):
        read_picture(images.pictures[-1])
    path.unlink()
    with pytest.raises(InputError, match=r"says 2, but these are missing\n  1.tar"):
        read_dataset(tmp_path, "cifar-10", "test")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_elevater(tmp_path / "copy", 2, only=["cifar-10", "voc-2007-classification"])


def test_class_names_that_are_no_utf8_are_refused(root: Path) -> None:
    names = root / "voc-2007-classification" / "classnames.txt"
    names.write_bytes("Flugzeug\nKäfer\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"classnames\.txt: cannot be read as UTF-8") as caught:
        read_dataset(root, "voc-2007-classification", "test")
    assert not isinstance(caught.value, Unavailable), "wrong data must not pass for missing data"


def test_the_check_meets_files_that_are_no_images(root: Path) -> None:
    (root / "cifar-10" / "test" / "airplane" / "0.png").write_bytes(b"<html>404</html>")
    reports = {row[:2]: row[-2:] for row in check_splits(root)}
    names = ("cifar-10", "voc-2007-classification", "mnist")
    assert [reports[name, "test"][0] for name in names] == ["wrong", "partial", "unavailable"]
    problem = reports["cifar-10", "test"][1]
    assert "cifar-10/test/airplane/0.png: no usable image" in problem and "not_an_image" in problem
