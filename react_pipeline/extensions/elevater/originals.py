"""The layout of the data sets as torchvision puts them on disk; nothing is downloaded.

Does not belong here: country211 and rendered-sst2, which are image folders (`readers`), and sets of
which torchvision knows no split (caltech-101, eurosat_clip). torch is loaded only when such data is
found. The splits are the official ones, the order of images is torchvision's.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from react_pipeline.extensions.predict import Picture
from react_pipeline.labelled import Unavailable, list_problems, read_csv
from react_pipeline.project import escape_name
from react_pipeline.store import InputError

from .datasets import Dataset
from .images import Listing, read_lines

_PCAM = ("normal", "tumor")
_FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Class names that the files leave out, by label."""


@dataclass(frozen=True, eq=False, kw_only=True)
class _Pixels(Picture):
    """A picture that is a row of an array, given as PNG.

    Attributes:
        row: Pixels, uint8 (H, W) or (H, W, 3); or a row's number in `x` of the HDF5 file `path`,
            which is read when it is asked for.
    """

    row: NDArray[np.uint8] | int

    def read(self) -> bytes:
        """Return the bytes of an image file; an InputError if the HDF5 file cannot be read."""
        pixels = self.row
        if isinstance(pixels, int):
            pixels = _from_hdf5(Path(str(self.path)), "x", itemgetter(pixels))
        buffer = io.BytesIO()
        image = Image.fromarray(np.ascontiguousarray(pixels, np.uint8))
        image.save(buffer, format="PNG", compress_level=0)  # read once, then thrown away
        return buffer.getvalue()


def list_original(root: Path, entry: Dataset, split: str) -> Listing | None:
    """List a split as torchvision's class for this data set finds it; None if the root holds none
    of the data set.

    Raises:
        Unavailable: If torchvision has no such split, or its files are missing.
        InputError: If torchvision finds them damaged.
    """
    layout = entry.original
    if layout is None or not (root / layout["folder"]).is_dir():
        return None
    where, theirs = root / layout["folder"], f"torchvision's {layout['torchvision']}"
    if split not in layout["splits"]:
        raise Unavailable(f"{where} ({theirs}) has no split {split!r}")
    try:
        return _FORMS[layout["form"]](root, where, entry, layout["splits"][split])
    except FileNotFoundError as error:
        raise Unavailable(f"{error.filename or where} is missing") from error
    except (InputError, ModuleNotFoundError):
        raise
    # torchvision raises RuntimeError for what it misses; what it then parses fails in any way.
    except Exception as error:
        problem = f"{where}: {theirs} cannot read it ({error}); copy it again"
        is_missing = "not found" in str(error) and "corrupted" not in str(error)
        if is_missing and isinstance(error, RuntimeError):
            raise Unavailable(problem) from error
        raise InputError(problem) from error


def _list_files(root: Path, where: Path, entry: Dataset, split: str) -> Listing:
    made = _torchvision(entry)(str(root), split=split, download=False)
    samples = getattr(made, "_samples", None)
    if samples is None:
        images = made._images if hasattr(made, "_images") else made._image_files
        samples = list(zip(images, made._labels, strict=True))
    # Folders of traffic signs are numbered, and so are the classes.
    numerals = [f"{number:05d}" for number in range(entry.num_classes)]
    paths, labels = zip(*samples, strict=True)
    names = getattr(made, "classes", numerals)
    return _listing(_files(root, paths, where), labels, names, where)


def _list_arrays(root: Path, where: Path, entry: Dataset, split: str) -> Listing:
    made = _torchvision(entry)(str(root), train=split == "train", download=False)
    pictures = _rows(where, f"{where.name}/{split}", np.asarray(made.data, np.uint8))
    return _listing(pictures, made.targets, made.classes, where)


def _list_pcam(_root: Path, where: Path, _entry: Dataset, split: str) -> Listing:
    images, targets = (
        where / f"camelyonpatch_level_2_split_{split}_{part}.h5" for part in ("x", "y")
    )
    labels = _from_hdf5(targets, "y", np.ravel)
    pictures = _rows(images, images.name, range(_from_hdf5(images, "x", len)))
    return _listing(pictures, labels, _PCAM, images)


def _list_fer(_root: Path, where: Path, _entry: Dataset, usage: str) -> Listing:
    # torchvision joins the public and the private test, which are ELEVATER's val and test.
    paths = [where / "fer2013.csv", where / "icml_face_data.csv"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise Unavailable(f"{paths[0]} and {paths[1].name} are missing")
    table = read_csv(path, skipinitialspace=True)
    table = table[table["Usage"] == usage]
    pixels = [np.array(text.split(), np.uint8).reshape(48, 48) for text in table["pixels"]]
    labels = table["emotion"].to_numpy(np.int64)
    return _listing(_rows(path, f"{path.name}/{usage}", pixels), labels, _FER, path)


def _list_voc(root: Path, where: Path, entry: Dataset, split: str) -> Listing:
    """List VOC 2007; objects that are marked as difficult do not count as present."""
    made = _torchvision(entry)(str(root), year="2007", image_set=split, download=False)
    lists = where / "ImageSets" / "Main"
    pictures = _files(root, made.images, lists / f"{split}.txt")
    rows = {Path(image).stem: row for row, image in enumerate(made.images)}
    labels = np.zeros((len(rows), entry.num_classes), np.uint8)
    for column, name in enumerate(entry.class_names):
        for line in read_lines(lists / f"{name}_{split}.txt"):
            image, mark = line.split()
            labels[rows[image], column] = mark == "1"
    return _listing(pictures, labels, entry.class_names, lists)


_FORMS: dict[str, Callable[[Path, Path, Dataset, str], Listing]] = {
    "listed": _list_files,
    "arrays": _list_arrays,
    "pcam": _list_pcam,
    "fer": _list_fer,
    "voc": _list_voc,
}
"""By the form that a row of the table names."""


def _listing(pictures: list[Picture], labels: Any, names: Any, where: Path) -> Listing:
    return Listing("torchvision", pictures, labels, names, where)


def _torchvision(entry: Dataset) -> Any:
    import torchvision.datasets

    return getattr(torchvision.datasets, (entry.original or {})["torchvision"])


def _files(root: Path, paths: Iterable[str | Path], where: Path) -> list[Picture]:
    found = [Path(path) for path in paths]
    if missing := [str(path) for path in found if not path.is_file()]:
        raise InputError(f"{where}: {len(missing)} images are missing\n{list_problems(missing)}")
    return [Picture(escape_name(path.relative_to(root)), path) for path in found]


def _rows(path: Path, place: str, rows: Iterable[Any]) -> list[Picture]:
    return [_Pixels(f"{place}#{number}", path, row=row) for number, row in enumerate(rows)]


def _from_hdf5(path: Path, name: str, take: Callable[[Any], Any]) -> Any:
    """Return what `take` makes of an array in a file."""
    import h5py  # type: ignore[import-untyped]

    try:
        with h5py.File(path) as file:
            return take(file[name])
    except FileNotFoundError as error:
        raise Unavailable(f"{path} is missing") from error
    except (OSError, KeyError, IndexError) as error:
        raise InputError(
            f"{path}: not an HDF5 file with {name!r}, or damaged ({error}); copy it again"
        ) from error
