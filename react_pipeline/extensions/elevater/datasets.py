"""The 20 data sets of ELEVATER's image classification, and ImageNet-1K in addition, as a table.

Belongs here: what is true of a data set wherever its files are: names, templates, metric, official
sizes. Does not belong here: finding or reading files (`readers`).

Class names and templates are read when they are asked for, from clip-benchmark's data files and
from open_clip's, in both cases without importing the package (that would load torch); where these
differ from ELEVATER's, from `data/`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from react_pipeline.installation import install_command, installed_file, open_clip_metadata
from react_pipeline.settings import did_you_mean
from react_pipeline.store import InputError

Metric = Literal["accuracy", "mean-per-class", "11point_mAP", "roc_auc"]

DATA = Path(__file__).parent / "data"
_HERE = "here"
_OPEN_CLIP = "open_clip"

_OWN_TEMPLATES: dict[str, tuple[str, ...]] = {
    "hateful-memes": ("a {}.",),
    "patch-camelyon": ("this is a photo of {}",),
    "resisc45_clip": tuple(
        f"{kind} {of} {{}}." for of in ("of", "of a", "of the") for kind in
        (f"{above} {what}" for what in ("imagery", "photo", "view") for above in ("satellite", "aerial"))
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Dataset:
    """One data set of the benchmark.

    Attributes:
        name: Its key in ELEVATER's registry.
        num_classes: Of ELEVATER; what is read must have as many.
        names_from: `here`, `open_clip`, or a key of clip-benchmark's class names.
        templates_from: The same for templates.
        multilabel: Images may have several classes.
        squash: Images are resized to a square without a crop (kitti-distance).
        torchvision: The torchvision class that has the same splits.
        order_is_elevaters: Class ids here are certainly ELEVATER's; then labels without names can
            be used.
    """

    name: str
    title: str
    num_classes: int
    num_templates: int
    metric: Metric
    sizes: Mapping[str, int] = field(hash=False)
    homepage: str
    names_from: str = _HERE
    templates_from: str = _HERE
    multilabel: bool = False
    squash: bool = False
    torchvision: str | None = None
    order_is_elevaters: bool = True

    @cached_property
    def aliases(self) -> tuple[tuple[str, ...], ...]:
        """Every name of each class, in the order of class ids, which is that of ELEVATER's own
        lists.

        Raises:
            InputError: If a package that holds the names is missing or holds others.
        """
        if self.names_from == _OPEN_CLIP:
            names: Any = open_clip_metadata().IMAGENET_CLASSNAMES
        elif self.names_from == _HERE:
            names = read_data("class_names.json").get(self.name, ())
        else:
            names = _clip_benchmark("en_classnames.json")[self.names_from]
        if len(names) != self.num_classes:
            raise InputError(
                f"{self.name}: {len(names)} class names, expected are {self.num_classes}"
            )
        return tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The first name of each class; the zero-shot head uses these."""
        return tuple(names[0] for names in self.aliases)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Prompts with `{}` where the class name goes.

        Raises:
            InputError: If there are none, or a package that holds them is missing or holds others.
        """
        if self.templates_from == _OPEN_CLIP:
            found = tuple(write("{}") for write in open_clip_metadata().OPENAI_IMAGENET_TEMPLATES)
        elif self.templates_from == _HERE:
            if self.name not in _OWN_TEMPLATES:
                raise InputError(
                    f"{self.name}: set `templates_from`, or add its templates to `_OWN_TEMPLATES`"
                )
            found = _OWN_TEMPLATES[self.name]
        else:
            texts = _clip_benchmark("en_zeroshot_classification_templates.json")[
                self.templates_from
            ]
            found = tuple(text.replace("{c}", "{}") for text in texts)
        if len(found) != self.num_templates:
            raise InputError(
                f"{self.name}: {len(found)} templates, expected are {self.num_templates}"
            )
        return found


def _sizes(train: int, val: int | None, test: int) -> Mapping[str, int]:
    return {"train": train, **({} if val is None else {"val": val}), "test": test}


_ROWS = (
    Dataset("caltech-101", "Caltech-101", 102, 34, "mean-per-class", _sizes(3060, None, 6084),
            "https://data.caltech.edu/records/mzrjq-6wc02 (images; the split is ELEVATER's own)",
            templates_from="caltech101"),
    Dataset("cifar-10", "CIFAR-10", 10, 18, "accuracy", _sizes(50000, None, 10000),
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            templates_from="cifar10", torchvision="CIFAR10"),
    Dataset("cifar-100", "CIFAR-100", 100, 18, "accuracy", _sizes(50000, None, 10000),
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            templates_from="cifar100", torchvision="CIFAR100"),
    Dataset("country211", "Country211", 211, 5, "accuracy", _sizes(31650, 10550, 21100),
            "https://github.com/openai/CLIP/blob/main/data/country211.md",
            "country211", "country211", torchvision="Country211"),
    Dataset("dtd", "Describable Textures", 47, 8, "accuracy", _sizes(1880, 1880, 1880),
            "https://www.robots.ox.ac.uk/~vgg/data/dtd/",
            templates_from="dtd", torchvision="DTD"),
    Dataset("eurosat_clip", "EuroSAT (CLIP's split)", 10, 3, "accuracy", _sizes(5000, 5000, 5000),
            "https://github.com/phelber/EuroSAT (images; the split is CLIP's)",
            "eurosat", "eurosat"),
    # ELEVATER's list is alphabetical, its description of the data is not: without names the ids
    # stay in doubt.
    Dataset("fer-2013", "Facial Expression 2013", 7, 6, "accuracy", _sizes(28709, 3589, 3589),
            "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge",
            templates_from="fer2013", torchvision="FER2013", order_is_elevaters=False),
    Dataset("fgvc-aircraft-2013b-variants102", "FGVC Aircraft", 100, 2, "mean-per-class", _sizes(3334, 3333, 3333),
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
            templates_from="fgvc_aircraft", torchvision="FGVCAircraft"),
    Dataset("food-101", "Food-101", 101, 1, "accuracy", _sizes(75750, None, 25250),
            "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
            templates_from="food101", torchvision="Food101"),
    Dataset("gtsrb", "German Traffic Signs", 43, 3, "accuracy", _sizes(26640, 12569, 12630),
            "https://benchmark.ini.rub.de/gtsrb_dataset.html",
            "gtsrb", "gtsrb", torchvision="GTSRB"),
    Dataset("hateful-memes", "Hateful Memes", 2, 1, "roc_auc", _sizes(8500, None, 500),
            "https://ai.meta.com/tools/hatefulmemes/ (after accepting its terms)"),
    Dataset("kitti-distance", "KITTI distance", 4, 1, "accuracy", _sizes(6347, 423, 711),
            "https://www.cvlibs.net/datasets/kitti/ (images; labels as in VTAB)",
            "kitti_closest_vehicle_distance", "kitti_closest_vehicle_distance", squash=True),
    Dataset("mnist", "MNIST", 10, 1, "accuracy", _sizes(60000, None, 10000),
            "http://yann.lecun.com/exdb/mnist/",
            "mnist", "mnist", torchvision="MNIST"),
    Dataset("oxford-flower-102", "Oxford Flowers 102", 102, 1, "mean-per-class", _sizes(1020, 1020, 6149),
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            "flowers", "flowers", torchvision="Flowers102"),
    Dataset("oxford-iiit-pets", "Oxford-IIIT Pets", 37, 1, "mean-per-class", _sizes(3680, None, 3669),
            "https://www.robots.ox.ac.uk/~vgg/data/pets/",
            "pets", "pets", torchvision="OxfordIIITPet"),
    Dataset("patch-camelyon", "PatchCamelyon", 2, 1, "accuracy", _sizes(262144, 32768, 32768),
            "https://github.com/basveeling/pcam",
            "pcam", torchvision="PCAM"),
    Dataset("rendered-sst2", "Rendered SST2", 2, 1, "accuracy", _sizes(6920, 827, 1821),
            "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
            templates_from="renderedsst2", torchvision="RenderedSST2"),
    Dataset("resisc45_clip", "RESISC45 (CLIP's "
                             "split)", 45, 18, "accuracy", _sizes(3150, 3150, 25200),
            "https://gcheng-nwpu.github.io/#Datasets (images; the split is CLIP's)"),
    Dataset("stanford-cars", "Stanford Cars", 196, 8, "accuracy", _sizes(8144, None, 8041),
            "https://ai.stanford.edu/~jkrause/cars/car_dataset.html (its links are dead; copies "
            "exist elsewhere)",
            templates_from="cars", torchvision="StanfordCars"),
    Dataset("voc-2007-classification", "PASCAL VOC 2007", 20, 1, "11point_mAP", _sizes(2501, 2510, 4952),
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
            templates_from="voc2007_multilabel", multilabel=True, torchvision="VOCDetection"),
)  # fmt: skip

DATASETS: Mapping[str, Dataset] = MappingProxyType({row.name: row for row in _ROWS})
"""The 20 data sets whose metrics ELEVATER averages, by name."""

IMAGENET = Dataset(
    "imagenet-1k", "ImageNet-1K", 1000, 80, "accuracy", _sizes(1281167, None, 50000),
    "https://www.image-net.org/download.php (after accepting its terms; training images are for "
    "few-shot alone)",
    _OPEN_CLIP, _OPEN_CLIP,
)  # fmt: skip
"""Reported next to the 20, never averaged with them."""


def dataset(name: str) -> Dataset:
    """The row of this name.

    Raises:
        InputError: If there is none; close matches are named.
    """
    known = {**DATASETS, IMAGENET.name: IMAGENET}
    if name in known:
        return known[name]
    meant = did_you_mean(name, known, f"known are {', '.join(known)}")
    raise InputError(f"{name!r} is not a data set of ELEVATER: {meant}")


@cache
def read_data(file_name: str) -> Any:
    """A JSON file next to this module."""
    return json.loads((DATA / file_name).read_text(encoding="utf-8"))


@cache
def _clip_benchmark(file_name: str) -> Any:
    if path := installed_file("clip_benchmark", "datasets", file_name):
        return json.loads(path.read_text(encoding="utf-8"))
    raise InputError(
        f"class names and templates need clip-benchmark's {file_name}, which is not installed: "
        f"{install_command('elevater')}"
    )
