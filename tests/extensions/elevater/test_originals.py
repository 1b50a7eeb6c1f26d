"""Data sets as torchvision lays them out on disk, found without a download and joined by name."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from support.trap import Trap

from react_pipeline.corpus import decode_image
from react_pipeline.extensions.elevater.datasets import dataset
from react_pipeline.extensions.elevater.images import LabelledImages, digests, read_picture
from react_pipeline.extensions.elevater.readers import join_names, read_dataset
from react_pipeline.labelled import Unavailable
from react_pipeline.store import InputError

h5py = pytest.importorskip("h5py")
scipy_io = pytest.importorskip("scipy.io")


def write(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def named(images: LabelledImages) -> list[str]:
    return [images.entry.class_names[label] for label in images.labels]


def write_dtd(root: Path, names: list[str]) -> None:
    rows = "".join(f"{name}/{name}_1.jpg\n" for name in names[::-1])
    write(root / "dtd/dtd/labels/test1.txt", rows)
    for name in names:
        write(root / f"dtd/dtd/images/{name}/{name}_1.jpg", name)


def write_aircraft(root: Path, names: list[str]) -> None:
    folder = root / "fgvc-aircraft-2013b" / "data"
    text = "\n".join(names).replace("_", " ")
    text = text.replace("F-16A-B", "F-16A/B").replace("F-A-18", "F/A-18")
    write(folder / "variants.txt", f"{text}\n")
    rows = [f"{number:07d} {name}\n" for number, name in enumerate(text.split("\n")[::-1])]
    write(folder / "images_variant_test.txt", "".join(rows))
    for number in range(len(names)):
        write(folder / "images" / f"{number:07d}.jpg", b"x")


def write_cars(root: Path, names: list[str]) -> None:
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    meta = {"class_names": np.array(names[::-1], dtype=object)}
    scipy_io.savemat(folder / "devkit" / "cars_meta.mat", meta)
    rows = [(f"{number}.jpg", number + 1) for number in range(len(names))]
    labels = np.array(rows, dtype=[("fname", object), ("class", int)])
    scipy_io.savemat(folder / "cars_test_annos_withlabels.mat", {"annotations": labels})
    for name, _ in rows:
        write(folder / "cars_test" / name, b"x")


@pytest.mark.parametrize(
    ("name", "write_original"),
    [
        ("dtd", write_dtd),
        ("fgvc-aircraft-2013b-variants102", write_aircraft),
        ("stanford-cars", write_cars),
    ],
)
def test_listed_files_are_joined_by_name(
    tmp_path: Path, name: str, write_original: Callable[[Path, list[str]], None]
) -> None:
    names = list(dataset(name).class_names)
    write_original(tmp_path, [class_name.replace(" ", "_") for class_name in names])
    images = read_dataset(tmp_path, name, "test")
    assert images.layout == "torchvision"
    assert named(images) == names[::-1]
    with pytest.raises(Unavailable):
        read_dataset(tmp_path, name, "train")


def test_gtsrb_folders_are_numbers_of_its_own_classes(tmp_path: Path) -> None:
    for number in range(43):
        write(tmp_path / f"gtsrb/GTSRB/Training/{number:05d}/00000_00000.ppm", b"x")
    images = read_dataset(tmp_path, "gtsrb", "train")
    assert images.labels.tolist() == list(range(43))
    assert images.entry.class_names[14] == "stop"
    with pytest.raises(Unavailable, match="no split 'val'"):
        read_dataset(tmp_path, "gtsrb", "val")


def test_oxford_flowers_have_other_names_in_torchvision(tmp_path: Path) -> None:
    entry = dataset("oxford-flower-102")
    theirs = torchvision.datasets.Flowers102.classes
    assert join_names(entry, theirs, tmp_path).tolist() == list(range(102))


def test_cifar_10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    names = list(dataset("cifar-10").class_names)[::-1]
    data = np.random.default_rng(0).integers(0, 256, (10, 3072), np.uint8)
    test = write(folder / "test_batch", pickle.dumps({"data": data, "labels": list(range(10))}))
    meta = write(folder / "batches.meta", pickle.dumps({"label_names": names}))
    # torchvision unpickles only files with the published checksums; these stand in for them.
    cifar = torchvision.datasets.CIFAR10
    with monkeypatch.context() as patch:
        patch.setattr(cifar, "train_list", [])
        patch.setattr(cifar, "test_list", [["test_batch", md5(test)]])
        patch.setattr(cifar, "meta", {**cifar.meta, "md5": md5(meta)})
        images = read_dataset(tmp_path, "cifar-10", "test")
    assert named(images) == names
    decoded = np.asarray(decode_image(images.pictures[2].read(), 10_000))
    assert np.array_equal(decoded, data[2].reshape(3, 32, 32).transpose(1, 2, 0))
    # A worker gets the pixels of its own pictures alone.
    assert images.pictures[2].name == "cifar-10-batches-py/test#2"
    assert len(pickle.dumps(images.pictures[2])) < 2 * data[2].nbytes
    assert len(set(digests(images.pictures))) == len(data)
    for path in (test, meta):
        write(path, pickle.dumps(Trap(tmp_path / "ran")))
    with pytest.raises(InputError, match="corrupted"):
        read_dataset(tmp_path, "cifar-10", "test")
    assert not (tmp_path / "ran").exists()


def test_patch_camelyon_is_read_from_its_arrays(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 96, 96, 3), np.uint8)
    stem = tmp_path / "pcam" / "camelyonpatch_level_2_split_valid"
    stem.parent.mkdir()
    with h5py.File(f"{stem}_x.h5", "w") as file:
        file["x"] = pixels
    with h5py.File(f"{stem}_y.h5", "w") as file:
        file["y"] = np.array([0, 1, 1, 0], np.uint8).reshape(4, 1, 1, 1)
    images = read_dataset(tmp_path, "patch-camelyon", "val")
    assert images.labels.tolist() == [0, 1, 1, 0]
    assert "tumor" in images.entry.class_names[1]
    assert np.array_equal(np.asarray(decode_image(images.pictures[2].read(), 10_000)), pixels[2])
    # Pixels are read when they are asked for.
    assert len(pickle.dumps(images.pictures[2])) < 1_000
    write(stem.with_name(f"{stem.name}_x.h5"), "x")
    with pytest.raises(InputError, match="damaged"):
        images.pictures[2].read()
    with pytest.raises(Unavailable, match="split_test_y.h5"):
        read_dataset(tmp_path, "patch-camelyon", "test")


@pytest.mark.parametrize(
    ("name", "header", "row"),
    [
        ("fer2013.csv", "emotion,pixels,Usage", "{0},{1},{2}"),
        ("icml_face_data.csv", "emotion, Usage, pixels", "{0},{2},{1}"),
    ],
)
def test_fer_2013_has_another_order_and_its_public_test_is_val(
    tmp_path: Path, name: str, header: str, row: str
) -> None:
    parts = {"Training": range(7), "PublicTest": (6, 3), "PrivateTest": (0, 1, 4)}
    pixels = " ".join(["7"] * 48 * 48)
    rows = [row.format(emotion, pixels, part) for part, ids in parts.items() for emotion in ids]
    write(tmp_path / "fer2013" / name, "\n".join([header, *rows]))
    assert named(read_dataset(tmp_path, "fer-2013", "val")) == ["neutral", "happy"]
    assert named(read_dataset(tmp_path, "fer-2013", "test")) == ["angry", "disgusted", "sad"]


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    pixels = " ".join(["7"] * 48 * 48)
    table = tmp_path / "fer2013" / "fer2013.csv"
    table.parent.mkdir()
    with pytest.raises(Unavailable, match=r"icml_face_data\.csv are missing"):
        read_dataset(tmp_path, "fer-2013", "test")
    with pytest.raises(Unavailable, match="no split 'trial'"):
        read_dataset(tmp_path, "fer-2013", "trial")
    for emotion, problem in (("7", "7 classes"), ("-1", "7 classes"), ("sad", "cannot read it")):
        write(table, f"emotion,pixels,Usage\n{emotion},{pixels},PrivateTest\n")
        with pytest.raises(InputError, match=problem):
            read_dataset(tmp_path, "fer-2013", "test")
    with pytest.raises(InputError, match="no image"):
        read_dataset(tmp_path, "fer-2013", "val")
    stem = tmp_path / "pcam" / "camelyonpatch_level_2_split_test"
    stem.parent.mkdir()
    for part, array in (("x", np.zeros((3, 96, 96, 3), np.uint8)), ("y", np.zeros(2, np.uint8))):
        with h5py.File(f"{stem}_{part}.h5", "w") as file:
            file[part] = array
    with pytest.raises(InputError, match="3 images and 2 labels"):
        read_dataset(tmp_path, "patch-camelyon", "test")


def test_voc_2007_has_many_classes_an_image_and_no_difficult(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2007"
    lists = folder / "ImageSets" / "Main"
    for image in ("1", "2"):
        write(folder / "JPEGImages" / f"{image}.jpg", image)
        write(folder / "Annotations" / f"{image}.xml", "<annotation/>")
    write(lists / "test.txt", "1\n2\n")
    names = dataset("voc-2007-classification").class_names
    for name in names:
        write(lists / f"{name}_test.txt", "1 -1\n2 -1\n")
    write(lists / "dog_test.txt", "1  1\n2 -1\n")
    write(lists / "person_test.txt", "1  1\n2  0\n")
    images = read_dataset(tmp_path, "voc-2007-classification", "test")
    assert images.labels.dtype == np.uint8
    assert images.labels.tolist() == [[name in ("dog", "person") for name in names], [0] * 20]


def test_a_complete_copy_of_another_layout_is_found(tmp_path: Path) -> None:
    write(tmp_path / "dtd/test/0.tar", b"")
    with pytest.raises(Unavailable, match=r"nshards\.txt is missing"):
        read_dataset(tmp_path, "dtd", "test")
    names = list(dataset("dtd").class_names)
    write_dtd(tmp_path, names)
    assert read_dataset(tmp_path, "dtd", "test").layout == "torchvision"
    (tmp_path / "dtd/dtd/labels/test1.txt").unlink()
    with pytest.raises(Unavailable, match=r"nshards\.txt is missing; .*test1\.txt"):
        read_dataset(tmp_path, "dtd", "test")
    for name in names:
        write(tmp_path / "dtd" / "test" / name / "0.jpg", b"x")
    assert read_dataset(tmp_path, "dtd", "test").layout == "image folder"


def test_a_listed_image_that_is_gone_is_named(tmp_path: Path) -> None:
    write_dtd(tmp_path, list(dataset("dtd").class_names))
    images = read_dataset(tmp_path, "dtd", "test")
    assert images.pictures[0].read() == b"zigzagged"
    (tmp_path / images.pictures[0].name).unlink()
    with pytest.raises(InputError, match="zigzagged_1.jpg"):
        read_picture(images.pictures[0])
    with pytest.raises(InputError, match="zigzagged_1.jpg"):
        read_dataset(tmp_path, "dtd", "test")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
