"""Image folders: one folder a class, joined with the table's classes by name, whatever their order
and spelling.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from support.elevater import png

from react_pipeline.extensions.elevater.datasets import DATASETS, IMAGENET, dataset, read_data
from react_pipeline.extensions.elevater.readers import join_names, read_dataset
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


def test_two_names_of_one_class_are_refused() -> None:
    names = ["angry", "disgusted", "fearful", "happy", "smiling", "sad", "surprised"]
    with pytest.raises(InputError, match=r"'smiling'.*already[\s\S]*left over: 'neutral'"):
        join_names(dataset("fer-2013"), names, Path())


def test_country_codes_are_known_and_valid_is_a_name_for_val(tmp_path: Path) -> None:
    codes = read_data("other_names.json")["country211"]
    folder = write_folders(tmp_path / "country211" / "valid", codes)
    (folder / next(iter(codes)) / "notes.txt").write_text("no image")
    images = read_dataset(tmp_path, "country211", "val")
    names = [images.entry.class_names[label] for label in images.labels]
    assert names == [codes[location.split("/")[2]] for location in images.locations]
    assert images.read(0) == (tmp_path / images.locations[0]).read_bytes()


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
    ("names", "message"),
    [
        (["negative"], "1 classes, rendered-sst2 has 2[\\s\\S]*left over: 'positive'"),
        (["negative", "positive", "neutral"], "'neutral': no class of rendered-sst2"),
        (["0", "1"], "'0': no class of rendered-sst2"),
    ],
)
def test_folders_that_do_not_match_are_refused_with_the_names(
    tmp_path: Path, names: list[str], message: str
) -> None:
    write_folders(tmp_path / SST / "test", names)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, SST, "test")


def test_the_digest_changes_with_a_label_and_with_a_pixel(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / SST / "test", ["negative", "positive"])
    first = folder / "negative" / "0.png"
    digests = set()
    for change in (
        lambda: None,
        lambda: first.write_bytes(png(0, "another")),
        lambda: first.rename(folder / "positive" / "00.png"),
    ):
        change()
        digests.add(read_dataset(tmp_path, SST, "test").digest())
    assert len(digests) == 3


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
