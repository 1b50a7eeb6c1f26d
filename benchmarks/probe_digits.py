"""A linear probe of the demo's encoder against its zero-shot, on real data that scikit-learn
carries: its digits.

Run after `make demo`: `.venv/bin/python -m benchmarks.probe_digits`; `--page benchmarks/results.md`
writes the table there. The 1,797 images are 8 x 8, grey, white on black, so they look like MNIST
made small; the model's own preprocessing makes them large. They are not MNIST, and no figure here
is the benchmark's. Names, template and metric are those that the benchmark has for MNIST (`"0"` to
`"9"`); zero-shot is shown with the names as words too, lest the names decide.

Half of the images of each class are for training, the other half for testing: the same halves for
all seeds, which draw the shots and nothing else. Search, training and both protocols are the
pipeline's own (`DatasetMeasurer`).

Beside it is the same protocol on the 64 grey values themselves, from a random head: such small
images need no encoder, and the table should not hide it.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from benchmarks.methods import write_section
from react_pipeline.clip import Clip, choose_device, load
from react_pipeline.extensions.elevater import PreprocessedImages, encode
from react_pipeline.extensions.elevater.datasets import Dataset, dataset
from react_pipeline.extensions.elevater.experiments import Experiment, Measurement, experiments
from react_pipeline.extensions.elevater.features import Features, SplitFeatures
from react_pipeline.extensions.elevater.head import Head
from react_pipeline.extensions.elevater.measuring import DatasetMeasurer, Outcome
from react_pipeline.extensions.elevater.settings import ElevaterConfig
from react_pipeline.extensions.elevater.shots import split_training
from react_pipeline.extensions.elevater.summary import summarize
from react_pipeline.extensions.elevater.sweep import adapt
from react_pipeline.extensions.elevater.trainer import FeatureExamples, ImageExamples, Trainer
from react_pipeline.lineage import fresh
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project

SHOTS = (5, 20, 50, -1)
BEGIN, END = "<!-- digits:begin -->", "<!-- digits:end -->"
IN_WORDS, PIXELS = "mnist, words", "mnist, pixels"
WORDS = tuple(
    (word,)
    for word in ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
)


class _WordDigits(Dataset):
    """MNIST's row of the table, with words as names of the classes."""

    aliases = WORDS


def halves(per_class: int | None = None) -> dict[str, NDArray[np.int64]]:
    """Numbers of the images of `train` and `test`: each class is split in half, always in the same
    way.

    Args:
        per_class: Only so many images of each class in each half; None: all.
    """
    labels = load_digits().target
    train, test = train_test_split(
        np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0
    )
    if per_class is None:
        return {"train": train, "test": test}
    first = [
        np.concatenate([part[labels[part] == digit][:per_class] for digit in range(10)])
        for part in (train, test)
    ]
    return dict(zip(("train", "test"), first, strict=True))


def png(images: NDArray[np.float64], number: int) -> bytes:
    """One of the images (N, 8, 8), values 0 to 16, as the bytes of a file."""
    stream = io.BytesIO()
    Image.fromarray(np.round(images[number] * (255 / 16)).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def encode_digits(clip: Clip, numbers: NDArray[np.int64], split: str) -> Features:
    """Features of some of the digits, as the benchmark's own are made."""
    digits = load_digits()
    images = PreprocessedImages(
        partial(png, digits.images[numbers]), str, clip.preprocess, max_pixels=64
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "digits.npy"
        encode(clip, images, len(numbers), path, batch_size=64, workers=0, title=f"digits {split}")
        features = np.load(path)
    about = SplitFeatures(
        dataset="mnist",
        split=split,
        n=len(numbers),
        expected=len(numbers),
        layout="scikit-learn",
        digest="digits",
        truncated=0,
        seconds=0.0,
    )
    return Features(about, features, digits.target[numbers].astype(np.int64))


def measure_digits(
    clip: Clip, shots: Sequence[int] = SHOTS, seeds: int = 3, per_class: int | None = None
) -> pd.DataFrame:
    """Rows as in `results.parquet`; of zero-shot with words as names and of bare pixels `dataset`
    says so.
    """
    numbers = halves(per_class)
    parts = {split: encode_digits(clip, chosen, split) for split, chosen in numbers.items()}
    config = ElevaterConfig.model_validate({"shots": shots, "seeds": seeds})
    entry = dataset("mnist")
    # The published table is of features as they are.
    measurer = DatasetMeasurer(clip, entry, parts["test"], normalize=False)
    words = _WordDigits(
        **{field.name: getattr(entry, field.name) for field in fields(entry)} | {"name": IN_WORDS}
    )
    in_words = DatasetMeasurer(clip, words, parts["test"]).zero_shot()
    found = list(in_words.measurements)
    for experiment in experiments(config):
        zero_shot = experiment == Experiment()
        outcome = (
            measurer.zero_shot()
            if zero_shot
            else measurer.adapted(experiment, parts["train"], _no_images)
        )
        found += outcome.measurements
        if not zero_shot:
            found += probe_pixels(numbers, experiment, outcome)
    return pd.DataFrame([row.model_dump() for row in found])


def probe_pixels(
    numbers: Mapping[str, NDArray[np.int64]], experiment: Experiment, outcome: Outcome
) -> list[Measurement]:
    """The rows of `outcome` made again with the 64 grey values as features."""
    digits = load_digits()
    train, test = (
        FeatureExamples(
            torch.from_numpy(digits.data[part]).float(), torch.from_numpy(digits.target[part])
        )
        for part in (numbers["train"], numbers["test"])
    )
    split = split_training(
        train.labels.numpy(), n_classes=10, shots=experiment.shots, seed=experiment.seed
    )
    probe = Trainer(Head.from_text(torch.zeros(64, 10)), "accuracy")
    adapted = adapt(probe, train, test, split)
    values = {"clean": adapted.clean, "elevater": adapted.elevater}
    about = {"dataset": PIXELS, "learning_rate": adapted.search.best.learning_rate}
    about["weight_decay"] = adapted.search.best.weight_decay
    return [
        row.model_copy(update={**about, "value": values[row.protocol]})
        for row in outcome.measurements
    ]


def _no_images(_: Features) -> ImageExamples:
    raise NotImplementedError("a linear probe takes no images")


def to_markdown(rows: pd.DataFrame) -> str:
    """One line an experiment: mean and spread of both protocols, the gain over the better
    zero-shot, bare pixels.

    Spread is the standard deviation over seeds as `summarize` has it, in percentage points.
    """
    summary = summarize(rows)
    zero_shot = summary[summary["experiment"] == "zero-shot"]
    best = zero_shot["value"].max()
    columns = [
        "experiment",
        "seeds",
        "last epoch (`clean`)",
        "best epoch (`elevater`)",
        "`clean` over zero-shot",
    ]
    lines: list[list[Any]] = []
    for row in zero_shot.sort_values("dataset").itertuples():
        names = 'names "zero" to "nine"' if row.dataset == IN_WORDS else 'names "0" to "9"'
        lines.append([f"zero-shot, {names}", "–", f"{100 * row.value:.1f}", "–", "–", "–"])
    for name, group in summary[summary["experiment"] != "zero-shot"].groupby(
        "experiment", sort=False
    ):
        figures = {(row["dataset"], row["protocol"]): row for _, row in group.iterrows()}
        clean, *others = (
            figures[key] for key in (("mnist", "clean"), ("mnist", "elevater"), (PIXELS, "clean"))
        )
        gain = f"{100 * (clean['value'] - best):+.1f}"
        lines.append(
            [name, clean["seeds"], _figure(clean), _figure(others[0]), gain, _figure(others[1])]
        )
    return markdown_table([*map(Markup, columns), Markup("bare pixels, `clean`")], lines).rstrip()


def _figure(row: pd.Series) -> str:
    spread = f" ± {100 * row['spread']:.1f}" if row["seeds"] > 1 else ""
    return f"{100 * row['value']:.1f}{spread}"


def main() -> None:
    """Encode, measure, print the table, and write it into a page if one is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=None)
    parser.add_argument("--seeds", type=int, default=3, help="samples of the shots, from seed 0")
    parser.add_argument("--shots", type=int, nargs="+", default=SHOTS, help="5, 20, 50, -1 (all)")
    parser.add_argument(
        "--per-class", type=int, default=None, help="only so many images a class in each half"
    )
    parser.add_argument(
        "--page", type=Path, default=None, help="has the two markers; gets the table"
    )
    given = parser.parse_args()
    project = Project.load(given.config)
    clip = load(fresh(project, "base_checkpoint").path, choose_device(project.config.device))
    rows = measure_digits(clip, given.shots, given.seeds, given.per_class)
    table = to_markdown(rows)
    print(table)
    print(
        rows[
            [
                "dataset",
                "shots",
                "seed",
                "protocol",
                "value",
                "learning_rate",
                "weight_decay",
                "seconds",
            ]
        ].to_string()
    )
    if given.page is not None:
        seconds = rows.loc[
            (rows["protocol"] == "clean") & (rows["dataset"] == "mnist"), "seconds"
        ].sum()
        about = (
            f"Accuracy in percent on {rows['n'].iloc[0]} test images, mean ± standard deviation "
            "over seeds, which draw "
            "the shots; `full`\ndraws nothing. Chance is 10. Bare pixels: the same protocol on "
            "the 64 grey values, "
            f"from a random head. All searches and\ntrainings on features: {seconds:.0f} s, torch "
            f"{torch.__version__}, "
            f"{torch.get_num_threads()} thread(s).\n"
        )
        write_section(given.page, f"{table}\n\n{about}", BEGIN, END)


if __name__ == "__main__":
    main()
