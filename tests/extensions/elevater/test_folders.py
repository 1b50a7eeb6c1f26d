"""Image folders: one folder a class, joined with the table's classes by name, whatever their order
and spelling.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.elevater import png

from react_pipeline.extensions.elevater.datasets import DATASETS, IMAGENET, dataset, read_data
from react_pipeline.extensions.elevater.readers import join_names, read_dataset
from react_pipeline.extensions.elevater.settings import TestImages
from react_pipeline.labelled import Unavailable
from react_pipeline.settings import DomainConfig
from react_pipeline.store import InputError

SST = "rendered-sst2"


def write_folders(folder: Path, names: dict[str, int]) -> Path:
    for name, class_id in names.items():
        (folder / name / "deeper").mkdir(parents=True)
        (folder / name / "0.png").write_bytes(png(class_id, f"{name}0"))
        (folder / name / "deeper" / "1.png").write_bytes(png(class_id, f"{name}1"))
    return folder


@pytest.mark.parametrize("name", DATASETS)
def test_shuffled_names_in_another_spelling_find_their_classes(name: str, tmp_path: Path) -> None:
    entry = dataset(name)
    order = list(range(entry.num_classes))
    random.Random(1).shuffle(order)  # noqa: S311
    respelt = [entry.class_names[number].upper().replace(" ", "_") for number in order]
    assert join_names(entry, respelt, tmp_path / "labels.txt").tolist() == order


@pytest.mark.parametrize(
    ("name", "names", "ids"),
    [
        (
            "eurosat_clip",
            "SeaLake AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture "
            "PermanentCrop Residential River",
            [9, 0, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        (
            "fer-2013",
            "Spooked angry disgusted fearful smiling bored depressed",
            [6, 0, 1, 2, 3, 4, 5],
        ),
    ],
)
def test_original_names_and_aliases_mean_their_classes(
    name: str, names: str, ids: list[int], tmp_path: Path
) -> None:
    assert join_names(dataset(name), names.split(), tmp_path).tolist() == ids


def test_two_names_of_one_class_are_refused(tmp_path: Path) -> None:
    names = ["angry", "disgusted", "fearful", "happy", "smiling", "sad", "surprised"]
    with pytest.raises(InputError, match=r"'smiling'.*already[\s\S]*left over: 'neutral'"):
        join_names(dataset("fer-2013"), names, tmp_path)


def test_country_codes_are_known_and_valid_is_a_name_for_val(tmp_path: Path) -> None:
    codes = read_data("other_names.json")["country211"]
    folder = write_folders(tmp_path / "country211" / "valid", dict.fromkeys(codes, 0))
    (folder / next(iter(codes)) / "notes.txt").write_text("no image")
    images = read_dataset(tmp_path, "country211", "val")
    names = [images.entry.class_names[label] for label in images.labels]
    assert names == [codes[location.split("/")[2]] for location in images.locations]
    assert images.read(0) == (tmp_path / images.locations[0]).read_bytes()


def test_imagenets_folders_of_wordnet_ids_are_joined_in_order(tmp_path: Path) -> None:
    import timm.data

    synsets = timm.data.ImageNetInfo("imagenet1k").label_names()
    assert join_names(IMAGENET, synsets[::-1], tmp_path).tolist() == list(range(1000))[::-1]
    assert join_names(IMAGENET, IMAGENET.class_names, tmp_path).tolist() == list(range(1000))
    names = IMAGENET.class_names
    twins = [number for number, name in enumerate(names) if names.count(name) > 1]
    shown = [number for number in range(1000) if number % 100 == 7 or number in twins]
    for number, synset in enumerate(synsets):
        (tmp_path / IMAGENET.name / "val" / synset).mkdir(parents=True)
        if number in shown:
            (tmp_path / IMAGENET.name / "val" / synset / "a.JPEG").write_bytes(png(number, synset))
    images = read_dataset(tmp_path, IMAGENET.name, "test")
    assert images.labels.tolist() == shown
    # Classes of one name keep the order of the domain.
    classes = [{"id": f"{name} ({number})", "name": name} for number, name in enumerate(names)]
    domain = DomainConfig.model_validate({"slug": "imagenet", "classes": classes})
    kind = TestImages(name="mine", path=tmp_path, dataset=IMAGENET.name)
    labels = kind.images(domain)[0]["class"]
    assert len(twins) == 4 and [int(label.rsplit("(")[1][:-1]) for label in labels] == shown


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
    write_folders(tmp_path / SST / "test", names)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, SST, "test")


def test_the_digest_changes_with_a_label_and_with_a_pixel(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / SST / "test", {"negative": 0, "positive": 1})
    digests = {read_dataset(tmp_path, SST, "test").digest()}
    (folder / "negative" / "0.png").write_bytes(png(0, "another"))
    digests.add(read_dataset(tmp_path, SST, "test").digest())
    (folder / "negative" / "0.png").rename(folder / "positive" / "00.png")
    digests.add(read_dataset(tmp_path, SST, "test").digest())
    assert len(digests) == 3


def test_stray_images_and_empty_folders_are_refused(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / SST / "test", {"negative": 0, "positive": 1})
    (folder / "stray.png").write_bytes(b"x")
    with pytest.raises(InputError, match="stray.png"):
        read_dataset(tmp_path, SST, "test")
    with pytest.raises(Unavailable):
        read_dataset(tmp_path, SST, "train")
    for path in folder.rglob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match="no image"):
        read_dataset(tmp_path, SST, "test")
