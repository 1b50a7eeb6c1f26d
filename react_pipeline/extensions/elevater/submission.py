"""Prediction files of the ELEVATER leaderboard: one JSON for each dataset and seed, joined into one
zip.

Does not belong here: making predictions. Shapes: N test images in the order on disk, C classes.
"""

import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from react_pipeline.store import Artifact, InputError, rename_synced

from .datasets import DATASETS

DECIMALS = 6
MEMBER = "all_predictions.json"


def write_prediction(
    about: Mapping[str, Any], probabilities: NDArray[np.floating[Any]], directory: Path
) -> None:
    """Write `<dataset>.json` for zero-shot, else `seed<s>_<dataset>.json`.

    Args:
        about: The leaderboard's other fields. `num_params` is the backbone with the mean head of
            the 20 datasets; `n_shot` is 0 for zero-shot, -1 for all images; `rnd_seeds` is [0]
            where nothing is sampled.
        probabilities: (N, C); they are rounded to 6 decimals.
    """
    directory.mkdir(parents=True, exist_ok=True)
    prefix = "" if about["n_shot"] == 0 else f"seed{about['rnd_seeds'][0]}_"
    # Python's rounding is exact; numpy's multiplies first and can miss a tie.
    rounded = [[round(value, DECIMALS) for value in row] for row in probabilities.tolist()]
    path = directory / f"{prefix}{about['dataset_name']}.json"
    path.write_text(json.dumps({**about, "predictions": [rounded]}), encoding="utf-8")


def write_submission(results: Artifact, experiment: str, path: Path) -> list[str]:
    """Join the prediction files of one experiment into the leaderboard's zip; returns the names of
    their data sets.

    One dataset is in memory at a time. The zip's bytes depend on the files only.

    Args:
        experiment: Its folder: `zero_shot`, `linear_probe_5`, `finetuning_full`.

    Raises:
        InputError: If the results have no predictions of it.
    """
    folder = results.path / "predictions" / experiment
    by_dataset: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.glob("*.json")):
        by_dataset[re.sub(r"^seed\d+_", "", file.stem)].append(file)
    if not by_dataset:
        names = sorted(path.name for path in folder.parent.glob("*"))
        raise InputError(
            f"{results.path}: no predictions of {experiment!r}; there are "
            f"{', '.join(names) or 'none'}"
        )
    order = [*(name for name in DATASETS if name in by_dataset), *(by_dataset.keys() - DATASETS)]
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
            for number, name in enumerate(order):
                separator = ", " if number else '{"data": ['
                stream.write((separator + json.dumps(_merge(by_dataset[name]))).encode())
            stream.write(b"]}")
        # A submission that could not be finished is never mistaken for one.
        rename_synced(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return order


def _merge(files: Iterable[Path]) -> dict[str, Any]:
    """Join the files of one dataset, in the order of their seeds; in all else they are equal."""
    parts = sorted((json.loads(file.read_bytes()) for file in files), key=itemgetter("rnd_seeds"))
    return {
        **parts[0],
        "rnd_seeds": [seed for part in parts for seed in part["rnd_seeds"]],
        "predictions": [seed for part in parts for seed in part["predictions"]],
    }
