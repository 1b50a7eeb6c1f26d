"""The files of a `promotion` artifact: a verdict, the table of its candidates, and the figure of
their intervals.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.evaluation import draw_intervals, interval_text, percent, points
from react_pipeline.pages import escaped, markdown_table
from react_pipeline.promotion.verdicts import VERDICT_FILE, Verdict

COLUMNS = {
    "method": "object",
    "status": "object",
    "top1": "float64",
    "n": "Int64",
    "gain": "float64",
    "low": "float64",
    "high": "float64",
    "p_value": "float64",
    "confidence": "float64",
    "judged": "Int64",
    "control_gain": "float64",
    "control_low": "float64",
    "control_high": "float64",
    "checkpoint": "object",
    "why": "object",
}
_SHADES = {"promoted": "#08519c", "challenger": "#6baed6"}


def write_verdict(
    directory: Path, verdict: Verdict, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Write `verdict.json`, `candidates.parquet`, `candidates.csv`, `table.md` and `promotion.png`,
    and return the counts for the manifest.

    Values are fractions, differences too. The table of a verdict by a person has one row: the model
    it promoted.
    """
    table = pd.DataFrame(list(rows), columns=[*COLUMNS]).astype(COLUMNS)
    texts = table.select_dtypes("object").columns
    table[texts] = table[texts].fillna("")
    (directory / VERDICT_FILE).write_text(
        verdict.model_dump_json(indent=1) + "\n", encoding="utf-8"
    )
    table.to_parquet(directory / "candidates.parquet", index=False)
    table.to_csv(directory / "candidates.csv", index=False)
    (directory / "table.md").write_text(to_markdown(verdict, table), encoding="utf-8")
    _draw(verdict, table, directory / "promotion.png")
    return {
        **verdict.model_dump(include={"decision", "by", "reason", "candidates"}),
        "champion": verdict.champion.method,
        "champion_before": verdict.champion_before.method,
        "challenger": verdict.challenger.method if verdict.challenger else "",
        "tested_on_these_images": len(verdict.tested),
        **verdict.champion.model_dump(include={"top1"}, exclude_none=True),
        **(verdict.test.model_dump() if verdict.test else {}),
    }


def to_markdown(verdict: Verdict, table: pd.DataFrame) -> str:
    """Return the sentence of the verdict, then a row for each candidate: percent, points, empty
    where nothing was measured.
    """
    rows = []
    for row in table.to_dict("records"):
        control = points(row["control_gain"])
        bounds = interval_text(row["control_low"], row["control_high"])
        images = None if pd.isna(row["n"]) else row["n"]
        gain = [
            points(row["gain"]),
            interval_text(row["low"], row["high"]),
            control and f"{control} ({bounds})",
        ]
        p_value = "" if pd.isna(row["p_value"]) else f"{row['p_value']:.3g}"
        rows.append(
            [row["method"], row["status"], percent(row["top1"]), images, *gain, p_value, row["why"]]
        )
    top1 = percent(verdict.champion.top1)
    champion = verdict.champion.method + (f", top-1 {top1}%" if top1 else "")
    columns = [
        "method",
        "",
        "top-1 %",
        "images",
        "gain",
        "interval",
        "over its control",
        "p (exact)",
        "why",
    ]
    return f"{escaped(verdict.reason)}\n\nChampion: {champion}.\n\n{markdown_table(columns, rows)}"


def _draw(verdict: Verdict, table: pd.DataFrame, path: Path) -> None:
    gains = table[table["gain"].notna()].rename(columns={"gain": "value"})
    label = f"points of top-1 over {verdict.champion_before.method}"
    if not gains.empty:
        share = f"{100 * gains['confidence'].iloc[0]:.4g}% interval"
        label = f"{label}, {share} over {int(gains['n'].iloc[0]):,} images"
    colours = [_SHADES.get(status, "#888888") for status in gains["status"]]
    draw_intervals(gains, colours, path, verdict.domain, label, reference=verdict.min_gain)
