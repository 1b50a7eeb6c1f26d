"""Bars: top-1 by method as a small picture, for places that show no page (Dagster, Markdown, MLflow's gallery)."""

from pathlib import Path

import pandas as pd

from react_pipeline.settings import CONTROL_SUFFIX


def draw_methods(table: pd.DataFrame, path: Path, title: str) -> None:
    """Write a PNG of top-1 by method with its 95% interval; the base grey, controls pale."""
    from matplotlib.figure import Figure

    measured = table[table["top1"].notna()]
    figure = Figure(figsize=(7, 0.9 + 0.45 * max(len(measured), 1)), layout="constrained")
    axes = figure.subplots()
    if measured.empty:
        axes.text(0.5, 0.5, "nothing measured", ha="center", va="center", transform=axes.transAxes)
        axes.set_axis_off()
    else:
        shades = [
            "#888888" if name == "base" else "#9ecae1" if name.endswith(CONTROL_SUFFIX) else "#08519c"
            for name in measured["method"]
        ]
        top1 = 100 * measured["top1"]
        bars = axes.barh(measured["method"], top1, color=shades)
        if measured["top1_low"].notna().all():
            reach = [(top1 - 100 * measured["top1_low"]).tolist(), (100 * measured["top1_high"] - top1).tolist()]
            axes.errorbar(top1, measured["method"], xerr=reach, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        axes.bar_label(bars, fmt="%.1f", label_type="center", color="white", fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.set(xlabel="top-1 %, zero-shot, with 95% interval", title=title)
    figure.savefig(path, dpi=100)
