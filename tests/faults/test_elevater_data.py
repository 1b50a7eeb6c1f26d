"""FAULTS 8, 11, 12, 13, 31 for the benchmark's data: missing is `unavailable`, wrong is refused
with file and fault.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.elevater import edit_json, edit_registry, folder_of, png, write_elevater

from react_pipeline.corpus.images import decode_image
from react_pipeline.extensions.elevater.check import check_root
from react_pipeline.extensions.elevater.datasets import DATASETS
from react_pipeline.extensions.elevater.index_files import REGISTRY
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled.kind import Unavailable
from react_pipeline.store.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_elevater(
        tmp_path / "copy", 2, only=["cifar-10", "kitti-distance", "voc-2007-classification"]
    )


def index_of(root: Path) -> Path:
    return folder_of(root, "cifar-10") / "test.txt"


def archive_of(root: Path) -> Path:
    return folder_of(root, "cifar-10") / "val.zip"


def refusal(root: Path, name: str = "cifar-10") -> str:
    with pytest.raises(InputError) as caught:
        read_dataset(root, name, "test")
    assert not isinstance(caught.value, Unavailable), "wrong data must not pass for missing data"
    return str(caught.value)


def replace_members(archive: Path, change: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = [(name, opened.read(name)) for name in opened.namelist()]
    with zipfile.ZipFile(archive, "w") as opened:
        for name, data in members:
            opened.writestr(name, change(name, data))


# 31: labels and classes


@pytest.mark.parametrize("label", ["10", "-1", "99999999999999999999"])
def test_a_label_out_of_range_is_refused_with_its_image(root: Path, label: str) -> None:
    index_of(root).write_text(
        index_of(root).read_text().replace("/3/1.png 3\n", f"/3/1.png {label}\n")
    )
    assert "/3/1.png': label" in refusal(root)
    assert "there are 10 classes" in refusal(root)


def test_a_label_that_is_no_number_is_refused_with_its_line(root: Path) -> None:
    index_of(root).write_text(index_of(root).read_text().replace("/3/0.png 3\n", "/3/0.png cat\n"))
    assert "test.txt" in refusal(root)
    assert "line 4: 'cat'" in refusal(root)


def test_another_number_of_classes_is_refused_with_the_names(root: Path) -> None:
    labels = folder_of(root, "cifar-10") / "labels.txt"
    labels.write_text(labels.read_text().replace("truck\n", ""))
    text = refusal(root)
    assert "labels.txt" in text
    assert "9 classes, cifar-10 has 10" in text
    assert "left over: 'truck'" in text


def test_a_class_name_unknown_to_the_benchmark_is_refused(
    root: Path,
) -> None:
    labels = folder_of(root, "cifar-10") / "labels.txt"
    labels.write_text(labels.read_text().replace("truck", "lorry"))
    assert "'lorry': no class of cifar-10 has this name" in refusal(root)
    assert str(root / "class_names.json") in refusal(root)
    (root / "class_names.json").write_text('{"cifar-10": {"lorry": "truck"}}')
    assert len(read_dataset(root, "cifar-10", "test")) == 20


def test_class_names_that_are_no_utf8_are_refused(root: Path) -> None:
    (folder_of(root, "cifar-10") / "labels.txt").write_bytes("Flugzeug\nKäfer\n".encode("latin-1"))
    assert "labels.txt: is not UTF-8" in refusal(root)


def test_labels_without_names_need_the_right_number_of_them(root: Path) -> None:
    (folder_of(root, "cifar-10") / "labels.txt").unlink()
    edit_registry(root, "cifar-10", num_classes=11)
    assert "11 classes, cifar-10 has 10" in refusal(root)


def test_several_annotations_of_image_of_one_class_are_refused(root: Path) -> None:
    path = folder_of(root, "kitti-distance") / "test_meta.json"
    edit_json(
        path, lambda coco: coco["annotations"].append({"id": 99, "image_id": 1, "category_id": 13})
    )
    assert "test images/0/0.png': 2 labels, kitti-distance has one an image" in refusal(
        root, "kitti-distance"
    )


def test_an_image_without_annotation_is_refused(root: Path) -> None:
    path = folder_of(root, "kitti-distance") / "test_meta.json"
    edit_json(path, lambda coco: coco["annotations"].pop())
    assert "0 labels" in refusal(root, "kitti-distance")


def test_annotations_of_unknown_images_or_classes_are_refused(root: Path) -> None:
    path = folder_of(root, "kitti-distance") / "test_meta.json"
    edit_json(
        path, lambda coco: coco["annotations"].append({"id": 99, "image_id": 5, "category_id": 13})
    )
    assert "annotation of image 5, category 13: unknown id" in refusal(root, "kitti-distance")


def test_an_image_listed_twice_with_different_labels_is_refused(root: Path) -> None:
    index_of(root).write_text(index_of(root).read_text().replace("/3/0.png 3\n", "/4/0.png 3\n"))
    assert "/4/0.png': occurs again with another label" in refusal(root)


# 31: lists and archives that are cut


def test_an_index_that_was_cut_is_refused(root: Path) -> None:
    lines = index_of(root).read_text().splitlines(keepends=True)
    index_of(root).write_text("".join(lines[:-3]))
    assert "17 images, the registry says 20" in refusal(root)


def test_an_empty_index_is_refused(root: Path) -> None:
    index_of(root).write_text("\n")
    edit_registry(root, "cifar-10", test={"index_path": "test.txt"})
    assert "lists no image" in refusal(root)


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "[]", '{"images": [], "annotations": []}', "nonsense"]
)
def test_a_coco_index_that_was_cut_or_lacks_a_field_is_refused(root: Path, text: str) -> None:
    (folder_of(root, "kitti-distance") / "test_meta.json").write_text(text)
    assert "test_meta.json" in refusal(root, "kitti-distance")


@pytest.mark.parametrize("text", ["{", '{"name": "cifar-10"}', '[{"name": "cifar-10"}]', "1"])
def test_a_registry_that_is_broken_is_refused(root: Path, text: str) -> None:
    (root / "vision_datasets.json").write_text(text)
    assert "vision_datasets.json" in refusal(root)


def test_a_broken_registry_entry_fails_its_data_set_alone(
    root: Path,
) -> None:
    edit_registry(root, "cifar-10", test={"index_path": "test.txt", "num_images": "many"})
    edit_json(
        root / "vision_datasets.json",
        lambda entries: entries.extend([1, {"name": 2}, {"name": "mine"}]),
    )
    assert "cifar-10.test.num_images: Input should be a valid integer" in refusal(root)
    assert len(read_dataset(root, "kitti-distance", "test")) == 8


def test_images_that_are_missing_are_listed_rather_than_counted(root: Path) -> None:
    lines = index_of(root).read_text().splitlines(keepends=True)
    index_of(root).write_text("".join([*lines[:-3], "val.zip@nosuch.png 3\n"]))
    assert "nosuch.png': the archive has no such member" in refusal(root)


def test_images_that_the_archive_lacks_are_listed_fifty_at_most(root: Path) -> None:
    index_of(root).write_text("".join(f"val.zip@gone/{number}.png 0\n" for number in range(60)))
    edit_registry(root, "cifar-10", test={"index_path": "test.txt", "num_images": 60})
    text = refusal(root)
    assert "60 images cannot be found" in text
    assert text.count("no such member") == 50
    assert "and 10 more" in text


def test_an_archive_that_was_cut_is_refused(root: Path) -> None:
    archive_of(root).write_bytes(archive_of(root).read_bytes()[:-100])
    assert "val.zip: the zip archive is truncated" in refusal(root)


def test_a_damaged_member_is_refused_when_it_is_read(root: Path) -> None:
    images = read_dataset(root, "cifar-10", "test")
    data = bytearray(archive_of(root).read_bytes())
    data[100] ^= 0xFF
    archive_of(root).write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"val.zip"):
        images.read(0)


def test_missing_data_is_unavailable_and_never_empty(tmp_path: Path) -> None:
    for name in DATASETS:
        with pytest.raises(Unavailable, match="Get it from"):
            read_dataset(tmp_path, name, "test")


# 8: names are never paths


@pytest.mark.parametrize(
    "location", ["../secret.png", "/etc/passwd", "../../copy.zip@a.png", "val.zip@../a.png"]
)
def test_a_location_outside_of_the_root_is_refused(root: Path, location: str) -> None:
    (root / "classification" / "secret.png").write_bytes(png(0, "secret"))
    index_of(root).write_text(f"{location} 0\n")
    edit_registry(root, "cifar-10", test={"index_path": "test.txt"})
    assert "is outside" in refusal(root)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"root_folder": "../elsewhere"}, "root_folder"),
        ({"root_folder": "/etc"}, "root_folder"),
        ({"labelmap": "/etc/passwd"}, "labelmap"),
        ({"test": {"index_path": "../../test.txt"}}, "index_path"),
    ],
)
def test_a_path_of_the_registry_outside_of_the_root_is_refused(
    root: Path, fields: dict[str, object], field: str
) -> None:
    edit_registry(root, "cifar-10", **fields)
    assert f"cifar-10.{field}" in refusal(root)
    assert "is outside" in refusal(root)


def test_reading_and_checking_write_nothing(root: Path) -> None:
    before = sorted(root.rglob("*"))
    check_root(root)
    assert sorted(root.rglob("*")) == before


# 11, 12, 13: images


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not_an_image"),
        (png(0, "x")[:30], "not_an_image|corrupt"),
    ],
)
def test_the_check_meets_files_that_are_no_images(root: Path, data: bytes, reason: str) -> None:
    replace_members(
        archive_of(root), lambda name, given: data if name.endswith("/0/0.png") else given
    )
    (report,) = check_root(root, ["cifar-10"])
    assert report.state == "wrong"
    problem = next(text for text in report.problems if "no usable image" in text)
    assert "val.zip@test images/0/0.png" in problem
    assert any(word in problem for word in reason.split("|"))


def test_check_refuses_a_decompression_bomb_before_decoding_it(root: Path) -> None:
    bomb = bytearray(png(0, "x"))
    # Width and height of a PNG's header; its checksum follows.
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    import zlib

    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    replace_members(
        archive_of(root), lambda name, given: bytes(bomb) if name.endswith("/0/0.png") else given
    )
    (report,) = check_root(root, ["cifar-10"])
    assert report.state == "wrong"
    assert any("too_many_pixels" in problem for problem in report.problems)


def test_a_member_that_claims_gigabytes_is_not_read(root: Path) -> None:
    images = read_dataset(root, "cifar-10", "test")
    data = archive_of(root).read_bytes()
    header = data.index(b"PK\x01\x02")
    archive_of(root).write_bytes(
        data[: header + 24] + struct.pack("<I", 3 << 30) + data[header + 28 :]
    )
    with pytest.raises(InputError, match="too many for an image"):
        images.read(0)


def test_images_of_every_colour_mode_come_out_of_archive_as_rgb(root: Path) -> None:
    modes = ["L", "RGBA", "P", "CMYK", "I;16"]

    def other(name: str, given: bytes) -> bytes:
        class_id, number = (int(part) for part in Path(name).with_suffix("").parts[-2:])
        if number or class_id >= len(modes):
            return given
        buffer = io.BytesIO()
        mode = modes[class_id]
        Image.new(mode, (8, 8)).save(buffer, format="JPEG" if mode == "CMYK" else "PNG")
        return buffer.getvalue()

    replace_members(archive_of(root), other)
    images = read_dataset(root, "cifar-10", "test")
    for position in range(len(modes)):
        assert decode_image(images.read(position), 10_000).mode == "RGB"


def test_a_report_names_every_kind_of_state(root: Path) -> None:
    index_of(root).write_text("val.zip@gone.png 0\n")
    states = {report.name: report.state for report in check_root(root)}
    assert states["cifar-10"] == "wrong"
    assert states["kitti-distance"] == "partial"
    assert states["mnist"] == "unavailable"
    assert json.loads((root / "vision_datasets.json").read_text())


def test_a_registry_that_is_no_list_is_refused(root: Path) -> None:
    (root / REGISTRY).write_text("{}")
    assert "is not a list of data sets" in refusal(root)
