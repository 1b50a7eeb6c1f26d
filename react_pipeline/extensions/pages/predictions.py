"""The page of a run of predictions: the least certain pictures, contact sheets by class, counts.

Names of classes and files come from outside: the template escapes them. The light installation has
no pandas, so this module imports none. Does not belong here: predicting.
"""

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from react_pipeline.corpus import BadImage, thumbnail
from react_pipeline.extensions.predict import Picture
from react_pipeline.pages import render
from react_pipeline.store import ReactError, write_atomically
from react_pipeline.use import Classifier

MAX_SHEETS = 48
PER_SHEET = 12
"""Pictures of a class; in all a page has about 2 MB."""


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
    table = pq.read_table(folder / "predictions.parquet").sort_by("confidence")
    labels = table["predicted"].to_numpy()
    by_label = Counter(labels.tolist())
    counts = by_label.most_common()
    sheets = [("The least certain pictures", len(table), table[: 2 * PER_SHEET])]
    for label, count in counts[:MAX_SHEETS]:
        # From the least to the most certain, at even distances, so that a sheet shows all there is.
        places = np.unique(np.linspace(0, count - 1, min(count, PER_SHEET)).round().astype(int))
        sheets.append((label, count, table.take(np.flatnonzero(labels == label)[places])))
    # A share that is not calibrated would be taken for a probability.
    calibrated = classifier.temperature is not None
    page = render(
        "extensions/pages",
        "predictions.html",
        page_title=f"Predictions: {source}",
        classifier=classifier,
        source=source,
        total=len(table),
        sheets=[(label, n, _figures(rows, pictures, calibrated)) for label, n, rows in sheets],
        more=max(len(counts) - MAX_SHEETS, 0),
        empty=[name for name in dict.fromkeys(classifier.classes) if name not in by_label],
        skipped=sorted(skipped.items()),
    )
    write_atomically(folder / "index.html", page)


def _figures(
    rows: pa.Table, pictures: Mapping[str, Picture], calibrated: bool
) -> list[tuple[str, str, str]]:
    """Return thumbnail, nearest classes and name of each row whose picture can still be read."""
    figures = []
    for row in rows.to_pylist():
        nearest = " or ".join(filter(None, (row["class_1"], row.get("class_2"))))
        nearest += f", {100 * row['confidence']:.0f}%" if calibrated else ""
        with suppress(BadImage, ReactError):
            figures.append((thumbnail(pictures[row["path"]].read()), nearest, row["path"]))
    return figures
