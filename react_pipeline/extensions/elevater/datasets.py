"""The 20 data sets of ELEVATER's image classification, and ImageNet-1K in addition, as a table.

Belongs here: what is true of a data set wherever its files are: names, templates, metric, official
sizes. Does not belong here: finding or reading files (`readers`).

The rows are `data/datasets.json`. Class names and templates are read when they are asked for, from
clip-benchmark's data files and from open_clip's, in both cases without importing the package (that
would load torch); where these differ from ELEVATER's, from `data/`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from react_pipeline.installation import install_command, installed_file, open_clip_metadata
from react_pipeline.settings import did_you_mean
from react_pipeline.store import InputError

Metric = Literal["accuracy", "mean-per-class", "11point_mAP", "roc_auc"]

DATA = Path(__file__).parent / "data"
_HERE = "here"
_OPEN_CLIP = "open_clip"

_CLASS_NAMES = ("class_names.json", "IMAGENET_CLASSNAMES", "en_classnames.json")
_TEMPLATES = (
    "templates.json",
    "OPENAI_IMAGENET_TEMPLATES",
    "en_zeroshot_classification_templates.json",
)
"""Where texts are: a file of `data/`, a name in open_clip's metadata, a file of clip-benchmark."""


@cache
def read_data(file_name: str) -> Any:
    """Read a JSON file of `data/`."""
    return json.loads((DATA / file_name).read_bytes())


@dataclass(frozen=True)
class Dataset:
    """One data set of the benchmark.

    Attributes:
        name: Its key in ELEVATER's registry.
        num_classes: Of ELEVATER; what is read must have as many.
        names_from: `here` (in `data/`), `open_clip`, or a key of clip-benchmark's class names.
        templates_from: The same for templates.
        multilabel: Images may have several classes.
        squash: Images are resized to a square without a crop (kitti-distance).
        original: Its layout on disk by torchvision, for `originals`: the class, its `folder` below
            the root, what it calls the `splits`, and the `form` that says how it is read.
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
    original: Mapping[str, Any] | None = field(default=None, hash=False)

    @cached_property
    def aliases(self) -> tuple[tuple[str, ...], ...]:
        """Return every name of each class, in the order of class ids, which is that of ELEVATER's
        own lists.

        Raises:
            InputError: If a package that holds the names is missing or holds others.
        """
        names = self._texts(self.names_from, _CLASS_NAMES, self.num_classes)
        return tuple((entry,) if isinstance(entry, str) else tuple(entry) for entry in names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the first name of each class; the zero-shot head uses these."""
        return tuple(names[0] for names in self.aliases)

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """Return prompts with `{}` where the class name goes.

        Raises:
            InputError: If there are none, or a package that holds them is missing or holds others.
        """
        texts = self._texts(self.templates_from, _TEMPLATES, self.num_templates)
        if self.templates_from == _OPEN_CLIP:
            return tuple(write("{}") for write in texts)
        return tuple(text.replace("{c}", "{}") for text in texts)

    def _texts(self, source: str, places: tuple[str, str, str], count: int) -> Any:
        here, attribute, file_name = places
        if source == _OPEN_CLIP:
            texts = getattr(open_clip_metadata(), attribute)
        elif source == _HERE:
            texts = read_data(here).get(self.name, ())
        else:
            texts = _clip_benchmark(file_name)[source]
        if len(texts) != count:
            raise InputError(f"{self.name}: {here}, {source}: {len(texts)} entries, not {count}")
        return texts


_ROWS: dict[str, Dataset] = {row["name"]: Dataset(**row) for row in read_data("datasets.json")}

IMAGENET = _ROWS["imagenet-1k"]
"""Reported next to the 20, never averaged with them."""

DATASETS: Mapping[str, Dataset] = {name: row for name, row in _ROWS.items() if row is not IMAGENET}
"""The 20 data sets whose metrics ELEVATER averages, by name."""


def dataset(name: str) -> Dataset:
    """Return the row of this name.

    Raises:
        InputError: If there is none; close matches are named.
    """
    if name in _ROWS:
        return _ROWS[name]
    meant = did_you_mean(name, _ROWS, f"known are {', '.join(_ROWS)}")
    raise InputError(f"{name!r} is not a data set of ELEVATER: {meant}")


@cache
def _clip_benchmark(file_name: str) -> Any:
    if path := installed_file("clip_benchmark", "datasets", file_name):
        return json.loads(path.read_bytes())
    raise InputError(
        f"class names and templates need clip-benchmark's {file_name}, which is not installed: "
        f"{install_command('elevater')}"
    )
