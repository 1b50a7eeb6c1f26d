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

from react_pipeline.store import rename_synced

from .datasets import DATASETS

DECIMALS = 6
MEMBER = "all_predictions.json"
FEW_SHOT_SEEDS = 3
"""The leaderboard averages seeds 0, 1 and 2."""


def write_prediction(
    about: Mapping[str, Any], probabilities: NDArray[np.floating[Any]], directory: Path
) -> Path:
    """Write `<dataset>.json` for zero-shot, else `seed<s>_<dataset>.json`.

    Args:
        about: The leaderboard's other fields. `num_params` is the backbone with the mean head of
            the 20 datasets; `n_shot` is 0 for zero-shot, -1 for all images; `rnd_seeds` is [0]
            where nothing is sampled.
        probabilities: (N, C); they are rounded to 6 decimals.
    """
    directory.mkdir(parents=True, exist_ok=True)
    prefix = "" if about["n_shot"] == 0 else f"seed{about['rnd_seeds'][0]}_"
    path = directory / f"{prefix}{about['dataset_name']}.json"
    # Python's rounding is exact; numpy's multiplies first and can miss a tie.
    rounded = [[round(value, DECIMALS) for value in row] for row in probabilities.tolist()]
    path.write_text(json.dumps({**about, "predictions": [rounded]}), encoding="utf-8")
    return path


def write_submission(directory: Path, path: Path) -> list[str]:
    """Join all prediction files of a folder into the leaderboard's zip.

    One dataset is in memory at a time. The zip's bytes depend on the files only.

    Returns:
        What the leaderboard would miss, a sentence each: it shows an average only for all 20
        datasets, and of a few shots only for three seeds.
    """
    by_dataset: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(directory.glob("*.json")):
        by_dataset[re.sub(r"^seed\d+_", "", file.stem)].append(file)
    order = [*(name for name in DATASETS if name in by_dataset), *(by_dataset.keys() - DATASETS)]
    problems = [f"{name}: no predictions" for name in DATASETS if name not in by_dataset]
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
                entry = _merge(by_dataset[name])
                seeds = FEW_SHOT_SEEDS if entry["n_shot"] > 0 else 1
                if len(by_dataset[name]) != seeds:
                    problems.append(f"{name}: {len(by_dataset[name])} of {seeds} seeds")
                separator = ", " if number else '{"data": ['
                stream.write((separator + json.dumps(entry)).encode())
            stream.write(b"]}")
        # A submission that could not be finished is never mistaken for one.
        rename_synced(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return problems


def _merge(files: Iterable[Path]) -> dict[str, Any]:
    """Join the files of one dataset, in the order of their seeds; in all else but parameters they
    are equal.
    """
    parts = sorted((json.loads(file.read_bytes()) for file in files), key=itemgetter("rnd_seeds"))
    trained = [part["num_trainable_params"] for part in parts]
    return {
        **parts[0],
        "num_trainable_params": round(sum(trained) / len(trained), DECIMALS),
        "rnd_seeds": [seed for part in parts for seed in part["rnd_seeds"]],
        "predictions": [seed for part in parts for seed in part["predictions"]],
    }
