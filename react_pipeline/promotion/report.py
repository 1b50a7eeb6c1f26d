"""A verdict as people read it: the table of candidates and the figure of their intervals.

Belongs here: the files of a `promotion` artifact. Does not belong here: deciding (`verdicts`, `decision`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from react_pipeline.pages import escaped, markdown_table
from react_pipeline.promotion.verdicts import VERDICT_FILE, Verdict

COLUMNS = [
    *("method", "status", "top1", "n", "gain", "low", "high", "p_value", "confidence"),
    "judged",
    *("control_gain", "control_low", "control_high", "checkpoint", "why"),
]
_TEXTS = ("method", "status", "checkpoint", "why")
_SHADES = {"promoted": "#08519c", "challenger": "#6baed6"}


def write_report(directory: Path, verdict: Verdict, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `verdict.json`, `candidates.parquet`, `candidates.csv`, `table.md` and `promotion.png`.

    Values are fractions, differences too. A verdict of a person has the row of the model it crowned.
    """
    rows = list(rows)
    if not rows and verdict.challenger is not None:
        chosen = verdict.challenger
        row = {"method": chosen.method, "top1": chosen.top1, "n": chosen.n, "checkpoint": chosen.checkpoint}
        figures = {} if verdict.test is None else verdict.test.model_dump(exclude={"n"})
        rows = [{**row, **figures, "status": verdict.decision, "why": f"decided by a {verdict.by}"}]
    table = pd.DataFrame(rows, columns=COLUMNS)
    table = table.astype({name: "float64" for name in COLUMNS if name not in (*_TEXTS, "n", "judged")})
    table = table.astype({"n": "Int64", "judged": "Int64"})
    table[list(_TEXTS)] = table[list(_TEXTS)].astype("object").where(table[list(_TEXTS)].notna(), "")
    (directory / VERDICT_FILE).write_text(verdict.model_dump_json(indent=1) + "\n", encoding="utf-8")
    table.to_parquet(directory / "candidates.parquet", index=False)
    table.to_csv(directory / "candidates.csv", index=False)
    (directory / "table.md").write_text(to_markdown(verdict, table), encoding="utf-8")
    _draw(verdict, table, directory / "promotion.png")


def to_markdown(verdict: Verdict, table: pd.DataFrame) -> str:
    """The sentence of the verdict, then a row for each candidate: percent, points, empty where nothing was measured."""
    rows = []
    for row in table.to_dict("records"):
        interval = "" if pd.isna(row["low"]) else f"{100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
        control = ""
        if not pd.isna(row["control_gain"]):
            bounds = f"{100 * row['control_low']:+.1f} to {100 * row['control_high']:+.1f}"
            control = f"{100 * row['control_gain']:+.1f} ({bounds})"
        p_value = "" if pd.isna(row["p_value"]) else f"{row['p_value']:.3g}"
        cells = [row["method"], row["status"], _percent(row["top1"]), None if pd.isna(row["n"]) else row["n"]]
        rows.append([*cells, _percent(row["gain"], "+"), interval, control, p_value, row["why"]])
    champion = f"Champion: {verdict.champion.method}"
    if verdict.champion.top1 is not None:
        champion += f", top-1 {_percent(verdict.champion.top1)}%"
    columns = ["method", "", "top-1 %", "images", "gain", "interval", "over its control", "p (exact)", "why"]
    return f"{escaped(verdict.reason)}\n\n{champion}.\n\n{markdown_table(columns, rows)}"


def _percent(value: float | None, sign: str = "") -> str:
    return "" if value is None or pd.isna(value) else f"{100 * value:{sign}.1f}"


def _draw(verdict: Verdict, table: pd.DataFrame, path: Path) -> None:
    from matplotlib.figure import Figure

    tested = table[table["gain"].notna()]
    figure = Figure(figsize=(7, 1.2 + 0.45 * max(len(tested), 1)), layout="constrained")
    axes = figure.subplots()
    if tested.empty:
        axes.text(0.5, 0.5, "nothing was tested", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        for place, row in enumerate(tested.to_dict("records")):
            shade = _SHADES.get(row["status"], "#888888")
            axes.plot([100 * row["low"], 100 * row["high"]], [place, place], color=shade, linewidth=3)
            axes.plot([100 * row["gain"]], [place], "o", color=shade)
        axes.axvline(100 * verdict.min_gain, color="black", linewidth=1, linestyle="--")
        axes.set_yticks(range(len(tested)), tested["method"])
        axes.set_ylim(len(tested) - 0.5, -0.5)
        share = f"{100 * tested['confidence'].iloc[0]:.4g}% interval over {int(tested['n'].iloc[0]):,} images"
        axes.set(xlabel=f"points of top-1 over {verdict.champion_before.method}, {share}", title=verdict.domain)
    figure.savefig(path, dpi=100)
