"""Prediction files of the ELEVATER leaderboard: one JSON for each dataset and seed, joined into one
zip, and checked.

Does not belong here: making predictions. Shapes: S seeds, N test images in the manifest's order, C
classes.
"""

import json
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from react_pipeline.store import Problem, rename_synced

from .datasets import DATASETS, IMAGENET, Dataset

DECIMALS = 6
MEMBER = "all_predictions.json"
MAX_MEMBER_BYTES = 4 << 30
"""Three seeds of all data sets and ImageNet are half of it."""
MAX_EXPANDED_BYTES = 64 << 20
MAX_EXPANSION = 100
"""Of what unpacks to more than `MAX_EXPANDED_BYTES`."""
FEW_SHOT_SEEDS = (0, 1, 2)
ROW_SUM_TOLERANCE = 1e-3
"""Relative; the probabilities of a multiclass image sum to 1."""


@dataclass(frozen=True)
class Prediction:
    """What a prediction file holds, under the same names.

    Attributes:
        model_name: Free text. The benchmark's zero-shot command puts `CLIP-` in front.
        num_params: Backbone plus head. The leaderboard wants the mean head of the 20 datasets.
        n_shot: Images a class; 0 for zero-shot, -1 for all.
        rnd_seeds: S seeds of the samples; [0] where nothing is sampled.
        predictions: Probabilities (S, N, C).
    """

    model_name: str
    dataset_name: str
    num_trainable_params: float
    num_params: int
    num_visual_params: int
    num_backbone_params: int
    n_shot: int
    rnd_seeds: tuple[int, ...]
    predictions: NDArray[np.floating[Any]]


Count = Annotated[float, Field(ge=0)]


class _Entry(BaseModel):
    """The fields of a `Prediction` in a submission."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model_name: str
    dataset_name: str
    num_trainable_params: Count
    num_params: Count
    num_visual_params: Count
    num_backbone_params: Count
    n_shot: Annotated[int, Field(ge=-1)]
    rnd_seeds: list[int]
    predictions: Any


def expected_datasets(sizes: Mapping[str, int]) -> dict[str, Dataset]:
    """The 20 datasets and ImageNet, by name, with these numbers of test images or the official
    ones.
    """
    return {
        entry.name: replace(entry, sizes={"test": sizes.get(entry.name, entry.sizes["test"])})
        for entry in (*DATASETS.values(), IMAGENET)
    }


def write_prediction(prediction: Prediction, directory: Path) -> Path:
    """Write `<dataset>.json` for zero-shot, else `seed<s>_<dataset>.json`; floats are rounded to 6
    decimals.
    """
    directory.mkdir(parents=True, exist_ok=True)
    prefix = "" if prediction.n_shot == 0 else f"seed{prediction.rnd_seeds[0]}_"
    path = directory / f"{prefix}{prediction.dataset_name}.json"
    # Python's rounding is exact; numpy's multiplies first and can miss a tie.
    rounded = [
        [[round(value, DECIMALS) for value in row] for row in seed]
        for seed in prediction.predictions.tolist()
    ]
    path.write_text(json.dumps({**vars(prediction), "predictions": rounded}), encoding="utf-8")
    return path


def dataset_of(path: Path) -> str:
    """The dataset of a prediction file, by its name."""
    return re.sub(r"^seed\d+_", "", path.stem)


def write_submission(directory: Path, path: Path | None = None) -> Path:
    """Join all prediction files of a folder into the leaderboard's zip, `all_predictions.zip` next
    to them.

    One dataset is in memory at a time. The zip's bytes depend on the files only.
    """
    path = path or directory / "all_predictions.zip"
    by_dataset: dict[str, list[Path]] = {}
    for file in sorted(directory.glob("*.json")):
        by_dataset.setdefault(dataset_of(file), []).append(file)
    # A fixed date: equal predictions, equal zip.
    member = zipfile.ZipInfo(MEMBER, date_time=(1980, 1, 1, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with (
            zipfile.ZipFile(partial, "w") as archive,
            archive.open(member, "w", force_zip64=True) as stream,
        ):
            for number, files in enumerate(by_dataset.values()):
                stream.write(
                    ((", " if number else '{"data": [') + json.dumps(_merged(files))).encode()
                )
            stream.write(b"]}")
        # A submission that could not be finished is never mistaken for one.
        rename_synced(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def check_submission(path: Path, expected: Mapping[str, Dataset]) -> list[Problem]:
    """Every problem of a submission zip, with file and field.

    Args:
        expected: As `expected_datasets`. ImageNet may be missing: it is not one of the 20.
    """
    try:
        entries = _entries(path)
    # RuntimeError: an encrypted member, an unknown compression, JSON that is nested too deeply.
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError) as error:
        return [Problem(path, "", f"cannot be read as a zip of JSON ({error}); write it again")]
    problems = [
        Problem(path, field, message)
        for number, entry in enumerate(entries)
        for field, message in _problems_of_entry(number, entry, expected)
    ]
    objects = [entry for entry in entries if isinstance(entry, dict)]
    names = Counter(str(entry.get("dataset_name")) for entry in objects)
    for name, times in names.items():
        if times > 1:
            problems.append(Problem(path, f"data.{name}", f"occurs {times} times; once is right"))
    twenty = [name for name in expected if name != IMAGENET.name]
    if missing := [name for name in twenty if name not in names]:
        message = (
            f"{len(twenty) - len(missing)} of {len(twenty)} datasets are present; missing: "
            f"{', '.join(missing)}. The leaderboard shows an average only for all of them"
        )
        problems.append(Problem(path, "data", message))
    shots = sorted({str(entry.get("n_shot")) for entry in objects})
    if len(shots) > 1:
        message = f"differs between datasets: {', '.join(shots)}"
        problems.append(Problem(path, "data.*.n_shot", message))
    return problems


def _entries(path: Path) -> list[Any]:
    with zipfile.ZipFile(path) as archive:
        if archive.namelist() != [MEMBER]:
            raise ValueError(f"must hold exactly {MEMBER}; holds {archive.namelist()}")
        if (size_bytes := archive.getinfo(MEMBER).file_size) > MAX_MEMBER_BYTES:
            raise ValueError(
                f"{MEMBER} holds {size_bytes:,} bytes, allowed are {MAX_MEMBER_BYTES:,}"
            )
        packed = archive.getinfo(MEMBER).compress_size
        if size_bytes > max(MAX_EXPANDED_BYTES, MAX_EXPANSION * packed):
            raise ValueError(f"{packed:,} bytes hold {size_bytes:,}, which no scores do")
        # The hook turns each dataset's numbers into an array before the next is read.
        document = json.loads(archive.read(MEMBER), object_hook=_as_array)
    match document:
        case {"data": list(entries), **others} if not others:
            return entries
    raise ValueError('the JSON must be {"data": [one object a dataset]}')


def _problems_of_entry(
    number: int, entry: Any, expected: Mapping[str, Dataset]
) -> Iterator[tuple[str, str]]:
    if not isinstance(entry, dict):
        yield f"data[{number}]", "is not an object"
        return
    name = str(entry.get("dataset_name", f"[{number}]"))
    messages: dict[str, str] = {}
    try:
        _Entry.model_validate(entry)
    except ValidationError as error:
        for fault in error.errors():
            value = "" if fault["type"] == "missing" else f"{str(fault['input'])[:100]!r}: "
            messages[str(fault["loc"][0])] = f"{value}{fault['msg']}"
    n_shot = 0 if "n_shot" in messages else entry["n_shot"]
    n_seeds = len(FEW_SHOT_SEEDS) if n_shot > 0 else 1
    if "rnd_seeds" not in messages:
        seeds = entry["rnd_seeds"]
        if len(seeds) != n_seeds:
            messages["rnd_seeds"] = (
                f"{seeds} are {len(seeds)} seeds; n_shot {n_shot} needs {n_seeds}"
            )
        elif len(set(seeds)) < n_seeds:
            messages["rnd_seeds"] = f"{seeds} names a seed twice"
    if name not in expected:
        messages["dataset_name"] = "is not a dataset of the leaderboard"
    elif "predictions" not in messages:
        messages["predictions"] = "; ".join(
            _wrong_predictions(entry["predictions"], n_seeds, expected[name])
        )
    for key, message in messages.items():
        if message:
            yield f"data.{name}.{key}", message


def _wrong_predictions(predictions: Any, n_seeds: int, dataset: Dataset) -> Iterator[str]:
    shape = (n_seeds, dataset.sizes["test"], dataset.num_classes)
    if not isinstance(predictions, np.ndarray):
        yield f"are not an array of numbers of shape {shape}"
        return
    if predictions.shape != shape:
        yield f"have the shape {predictions.shape}; {shape} (seeds, test images, classes) is right"
    outside = ~((predictions >= 0) & (predictions <= 1))
    if outside.any():
        yield (
            f"{np.count_nonzero(outside)} values are outside 0 to 1, the first at {_first(outside)}"
        )
    elif not dataset.multilabel and predictions.ndim == 3:
        wrong = np.abs(predictions.sum(axis=2) - 1) > ROW_SUM_TOLERANCE
        if wrong.any():
            yield f"{np.count_nonzero(wrong)} rows do not sum to 1, the first at {_first(wrong)}"


def _first(mask: NDArray[np.bool_]) -> list[int]:
    return [int(place) for place in np.argwhere(mask)[0]]


def _as_array(entry: dict[str, Any]) -> dict[str, Any]:
    try:
        return {**entry, "predictions": np.asarray(entry["predictions"], dtype=np.float64)}
    except (KeyError, ValueError, TypeError, OverflowError):
        return entry


def _merged(files: Iterable[Path]) -> dict[str, Any]:
    """The files of one dataset as one, in the order of their seeds; in all else but parameters they
    are equal.
    """
    parts = sorted(
        (json.loads(file.read_bytes()) for file in files),
        key=itemgetter("rnd_seeds"),
    )
    trained = [part["num_trainable_params"] for part in parts]
    return {
        **parts[0],
        "num_trainable_params": round(sum(trained) / len(trained), DECIMALS),
        "rnd_seeds": [seed for part in parts for seed in part["rnd_seeds"]],
        "predictions": [seed for part in parts for seed in part["predictions"]],
    }
