"""The tables of the page on retrieval's speed, from what `benchmarks.retrieval` measured.

Belongs here: laying figures out. Does not belong here: measuring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

MIB = 2**20

Row = dict[str, Any]
"""What was measured of one size and key."""


def index_table(rows: Sequence[Row]) -> str:
    """One line a size and key."""
    lines = [
        {
            "vectors": f"{row['rows']:,}",
            "key": f"`{row['key']}`",
            "build s": f"{row['seconds']:,.0f}",
            "building, MiB": f"{row['build_peak_mib']:,.0f}",
            "disk, MiB": f"{row['bytes'] / MIB:,.0f}",
            "searching, MiB": f"{row['resident_mib']:,.0f}",
            "tuned": f"{row['parameters'].split(',')[0] or '–'}"
            + (f", x{row['rerank']}" if row["rerank"] > 1 else ""),
            "recall@10": f"{row['recall_at_10']:.3f}",
            "recall@100": f"{row['recall_at_100']:.3f}",
            "queries/s": f"{row['ours']:,.0f}",
            "over exact": f"{row['ours'] / row['exact']:.3g}",
            "reference's recall@10": f"{row['reference_recall']:.3f}",
            "reference's queries/s": f"{row['reference']:,.0f}",
            "over reference": f"{row['ours'] / row['reference']:.3g}",
        }
        for row in rows
    ]
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True))
