"""Image folders: one folder a class, joined by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.elevater import png

from react_pipeline.extensions.elevater import labelled_kind
from react_pipeline.extensions.elevater.datasets import IMAGENET, dataset, read_data
from react_pipeline.extensions.elevater.readers import read_dataset
from react_pipeline.labelled.kind import Unavailable
from react_pipeline.settings.config import DomainConfig
from react_pipeline.store.errors import InputError


def write_folders(folder: Path, names: dict[str, int]) -> Path:
    for name, class_id in names.items():
        (folder / name / "deeper").mkdir(parents=True)
        (folder / name / "0.png").write_bytes(png(class_id, f"{name}0"))
        (folder / name / "deeper" / "1.png").write_bytes(png(class_id, f"{name}1"))
    return folder


def test_folders_of_another_spelling_give_the_tables_ids(tmp_path: Path) -> None:
    names = {
        name.title().replace(" ", "_"): number
        for number, name in enumerate(dataset("cifar-100").class_names)
    }
    write_folders(tmp_path / "cifar-100" / "test", names)
    images = read_dataset(tmp_path, "cifar-100", "test")
    assert images.layout == "image folder"
    assert len(images) == 200
    assert all(
        names[location.split("/")[2]] == label
        for location, label in zip(images.locations, images.labels, strict=True)
    )
    assert images.read(0) == (tmp_path / images.locations[0]).read_bytes()


def test_country_codes_are_known_and_valid_is_a_name_for_val(tmp_path: Path) -> None:
    codes = read_data("other_names.json")["country211"]
    write_folders(tmp_path / "country211" / "valid", dict.fromkeys(codes, 0))
    images = read_dataset(tmp_path, "country211", "val")
    names = [images.class_names[label] for label in images.labels]
    assert names == [codes[location.split("/")[2]] for location in images.locations]


def test_imagenets_validation_folder_of_wordnet_ids_is_its_test(tmp_path: Path) -> None:
    import timm.data

    synsets = timm.data.ImageNetInfo("imagenet1k").label_names()
    for number, synset in enumerate(synsets):
        (tmp_path / IMAGENET.name / "val" / synset).mkdir(parents=True)
        if number % 100 == 7:
            (tmp_path / IMAGENET.name / "val" / synset / "a.JPEG").write_bytes(png(number, synset))
    images = read_dataset(tmp_path, IMAGENET.name, "test")
    assert images.labels.tolist() == [number for number in range(1000) if number % 100 == 7]
    # As the recipe makes a list of some training images a folder.
    for location in images.locations[:5]:
        link = tmp_path / location.replace("/val/", "/train/")
        link.parent.mkdir(parents=True)
        link.symlink_to(tmp_path / location)
    for synset in synsets:
        (tmp_path / IMAGENET.name / "train" / synset).mkdir(parents=True, exist_ok=True)
    few = read_dataset(tmp_path, IMAGENET.name, "train")
    assert (few.labels.tolist(), few.read(4)) == (images.labels[:5].tolist(), images.read(4))


def test_imagenet_classes_of_one_name_keep_the_domain_order(
    tmp_path: Path,
) -> None:
    import timm.data

    twins = [
        number
        for number, name in enumerate(IMAGENET.class_names)
        if IMAGENET.class_names.count(name) > 1
    ]
    assert len(twins) == 4
    for number, synset in enumerate(timm.data.ImageNetInfo("imagenet1k").label_names()):
        (tmp_path / IMAGENET.name / "val" / synset).mkdir(parents=True)
        if number in twins:
            (tmp_path / IMAGENET.name / "val" / synset / "a.JPEG").write_bytes(png(number, synset))
    classes = [
        {"id": f"{name} ({number})", "name": name}
        for number, name in enumerate(IMAGENET.class_names)
    ]
    domain = DomainConfig.model_validate({"slug": "imagenet", "classes": classes})
    kind = labelled_kind.TestImages(name="mine", path=tmp_path, dataset=IMAGENET.name)
    images, _ = kind.images(domain)
    assert sorted(images["class"]) == sorted(
        f"{IMAGENET.class_names[number]} ({number})" for number in twins
    )
    assert [int(name.rsplit("(")[1][:-1]) for name in images["class"]] == [
        read_dataset(tmp_path, IMAGENET.name, "test").labels[row] for row in range(4)
    ]


def test_files_that_are_no_images_are_counted_and_left_out(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "rendered-sst2" / "test", {"negative": 0, "positive": 1})
    (folder / "negative" / "notes.txt").write_text("x")
    images = read_dataset(tmp_path, "rendered-sst2", "test")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert any("1 files" in note for note in images.notes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"negative": 0}, "1 classes, rendered-sst2 has 2[\\s\\S]*left over: 'positive'"),
        ({"negative": 0, "positive": 1, "neutral": 2}, "'neutral': no class of rendered-sst2"),
        ({"0": 0, "1": 1}, "'0': no class of rendered-sst2"),
    ],
)
def test_folders_that_do_not_match_are_refused_with_the_names(
    tmp_path: Path, names: dict[str, int], message: str
) -> None:
    write_folders(tmp_path / "rendered-sst2" / "test", names)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, "rendered-sst2", "test")


def test_an_image_outside_of_any_class_is_refused(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "rendered-sst2" / "test", {"negative": 0, "positive": 1})
    (folder / "stray.png").write_bytes(b"x")
    with pytest.raises(InputError, match="stray.png"):
        read_dataset(tmp_path, "rendered-sst2", "test")


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    for name in ("negative", "positive"):
        (tmp_path / "rendered-sst2" / "test" / name).mkdir(parents=True)
    with pytest.raises(InputError, match="no image"):
        read_dataset(tmp_path, "rendered-sst2", "test")


def test_a_split_without_a_folder_is_unavailable(tmp_path: Path) -> None:
    write_folders(tmp_path / "rendered-sst2" / "test", {"negative": 0, "positive": 1})
    with pytest.raises(Unavailable):
        read_dataset(tmp_path, "rendered-sst2", "train")
