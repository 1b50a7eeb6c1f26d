"""The page of a run of predictions: the least certain pictures, contact sheets by class, counts.

Belongs here: which pictures are shown, and their thumbnails. Does not belong here: predicting.
Names of classes and files come from outside: they are kept as they are here and escaped by the
template.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import BadImage, thumbnail
from react_pipeline.extensions.predict.pictures import Picture
from react_pipeline.pages import render
from react_pipeline.store import ReactError, write_atomically
from react_pipeline.use import Classifier

MAX_SHOWN = 600
"""Pictures of a page: about 2 MB."""
MAX_UNCERTAIN = 24
PER_CLASS = 12


def write_page(
    folder: Path,
    classifier: Classifier,
    source: str,
    pictures: Mapping[str, Picture],
    skipped: Mapping[str, int],
) -> None:
    """Write `index.html` next to `predictions.parquet`: one file that loads nothing from anywhere.

    Args:
        pictures: By name, as the predictions name them.
        skipped: Counts of what was left out, by reason.
    """
    columns = ["path", "predicted", "confidence", "class_1"]
    if len(classifier.classes) > 1:
        columns.append("class_2")
    table = pq.read_table(folder / "predictions.parquet", columns=columns)
    order = np.argsort(table["confidence"].to_numpy(), kind="stable")
    labels = table["predicted"].to_numpy()
    counts = Counter(labels.tolist()).most_common()
    per_class = max(4, min(PER_CLASS, (MAX_SHOWN - MAX_UNCERTAIN) // len(counts)))
    listed = counts[: (MAX_SHOWN - MAX_UNCERTAIN) // per_class]
    sheets = []
    for label, count in listed:
        rows = order[labels[order] == label]
        # From the least to the most certain, at even distances, so that the sheet shows all there
        # is.
        places = np.unique(np.linspace(0, count - 1, min(count, per_class)).round().astype(int))
        shown = _figures(table.take(rows[places]), pictures)
        sheets.append({"label": label, "count": count, "shown": shown})
    page = render(
        "extensions/predict",
        "predictions.html",
        page_title=f"Predictions: {source}",
        model=str(classifier.origin),
        source=source,
        note=classifier.note,
        calibration=classifier.calibration,
        total=len(table),
        uncertain=_figures(table.take(order[:MAX_UNCERTAIN]), pictures),
        sheets=sheets,
        more=len(counts) - len(listed),
        skipped=sorted(skipped.items()),
    )
    write_atomically(folder / "index.html", page)


def _figures(rows: pa.Table, pictures: Mapping[str, Picture]) -> list[dict[str, str]]:
    """Thumbnail, name and nearest classes of each row whose picture can still be read."""
    figures = []
    for row in rows.to_pylist():
        with suppress(BadImage, ReactError):
            figure = {
                "picture": thumbnail(pictures[row["path"]].read()),
                "name": row["path"],
                "nearest": " or ".join(filter(None, (row["class_1"], row.get("class_2")))),
                "confidence": f"{100 * row['confidence']:.0f}%",
            }
            figures.append(figure)
    return figures
