"""The page of a run of predictions: the least certain pictures, contact sheets by class, counts.

Belongs here: which pictures are shown, and their thumbnails. Does not belong here: predicting. Names of classes and
files come from outside: they are kept as they are here and escaped by the template.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from react_pipeline.corpus import BadImage, thumbnail
from react_pipeline.pages import render
from react_pipeline.store import write_atomically
from react_pipeline.use.classifier import Classifier
from react_pipeline.use.pictures import Picture

MAX_SHOWN = 600
"""Pictures of a page: about 2 MB."""
MAX_UNCERTAIN = 24
PER_CLASS = 12


@dataclass
class Chosen:
    """What the page needs of all predictions: by picture its number, confidence, label and the two nearest classes."""

    parts: list[dict[str, NDArray[Any]]] = field(default_factory=list)

    def add(self, table: pa.Table) -> None:
        """Take the rows of one part."""
        names = ["number", "confidence", "predicted", "class_1", "class_2"]
        self.parts.append({name: table[name].to_numpy() for name in names if name in table.column_names})

    def all(self, name: str) -> NDArray[Any]:
        """One column of all parts; "" for a second class where there is only one."""
        missing = np.full(1, "", object)
        return np.concatenate([part.get(name, np.repeat(missing, len(part["number"]))) for part in self.parts])


def write_page(
    path: Path,
    classifier: Classifier,
    source: str,
    chosen: Chosen,
    pictures: Sequence[Picture],
    skipped: Mapping[str, int],
) -> None:
    """Write the page, one file that loads nothing from anywhere."""
    numbers, confidence, labels = (chosen.all(name) for name in ("number", "confidence", "predicted"))
    firsts, seconds = chosen.all("class_1"), chosen.all("class_2")

    def shown(rows: Sequence[int]) -> list[dict[str, str]]:
        return [
            {
                "picture": picture,
                "name": pictures[int(numbers[row])].name,
                "label": str(labels[row]),
                "nearest": " or ".join(filter(None, (str(firsts[row]), str(seconds[row])))),
                "confidence": f"{100 * confidence[row]:.0f}%",
            }
            for row in rows
            if (picture := _picture(pictures[int(numbers[row])]))
        ]

    order = np.argsort(confidence, kind="stable")
    counts = Counter(labels.tolist()).most_common()
    per_class = max(4, min(PER_CLASS, (MAX_SHOWN - MAX_UNCERTAIN) // len(counts)))
    listed = counts[: (MAX_SHOWN - MAX_UNCERTAIN) // per_class]
    sheets = []
    for label, count in listed:
        rows = order[labels[order] == label]
        # From the least to the most certain, at even distances, so that the sheet shows all there is.
        places = np.unique(np.linspace(0, count - 1, min(count, per_class)).round().astype(int))
        sheets.append({"label": label, "count": count, "shown": shown(rows[places].tolist())})
    page = render(
        "use",
        "predictions.html",
        page_title=f"Predictions: {source}",
        model=str(classifier.origin),
        source=source,
        note=classifier.note,
        calibration=classifier.calibration,
        total=len(numbers),
        uncertain=shown(order[:MAX_UNCERTAIN].tolist()),
        sheets=sheets,
        more=len(counts) - len(listed),
        skipped=sorted(Counter(skipped).items()),
    )
    write_atomically(path, page)


def _picture(picture: Picture) -> str:
    try:
        return thumbnail(picture.read())
    except BadImage:
        return ""
