"""Figures of the pages: what plotly draws of a comparison and of the overview.

Does not belong here: numbers (`comparison`), the page around them (`dashboard`).
Plotly reads tags in every text it draws, so each name from outside goes through `plain`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from react_pipeline.evaluation import MEAN, bound_columns
from react_pipeline.settings import CONTROL_SUFFIX, METHODS, first_seed

if TYPE_CHECKING:
    from plotly.graph_objects import Figure  # type: ignore[import-untyped, unused-ignore]

BASE, CONTROL, OTHER = "#6b7280", "#8fa9c9", "#1f5fa8"
INK, RULE, GOOD, BAD = "#1d2430", "#e4e7ec", "#1f7a5c", "#b4472e"
MAX_NAME_CHARS = 40
CLASSES_PER_SIDE = 12
"""Classes with the largest gains, and with the largest losses, in the figure of classes."""


def plain(name: str) -> str:
    """A name from outside as text that no renderer takes for a tag; cut where it would push the
    plot aside.
    """
    text = " ".join(str(name).split())
    return html.escape(text if len(text) <= MAX_NAME_CHARS else f"{text[: MAX_NAME_CHARS - 1]}…")


def colour_of(method: str) -> str:
    """Grey for the base, pale for controls, one colour for each trained method."""
    if method.endswith(CONTROL_SUFFIX):
        return CONTROL
    name = first_seed(method)
    return METHODS[name].colour if name in METHODS else OTHER


def intervals_figure(table: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Columns of a comparison side by side, each value with its interval, one line a method; all
    its seeds are on it.

    Args:
        titles: By column; columns without a value are left out.
    """
    columns = [name for name in titles if table[name].notna().any()]
    rows = table[table[columns].notna().any(axis=1)].iloc[::-1]
    figure = _side_by_side(*(titles[name] for name in columns), shared_yaxes=True)
    for place, name in enumerate(columns, start=1):
        # The base has no difference to itself.
        compared = rows["method"] != "base" if name == "delta_top1" else True
        for method, row in rows[rows[name].notna() & compared].groupby("method", sort=False):
            label = first_seed(method)
            figure.add_trace(_points(row, [label], name, method), row=1, col=place)
        for mark in _base(table) if name == "top1" else [0.0]:
            figure.add_vline(mark, line_dash="dot", line_color=BASE, row=1, col=place)
    lines = list(dict.fromkeys(map(first_seed, rows["method"])))
    figure.update_yaxes(categoryorder="array", categoryarray=lines)
    return _styled(figure, 110 + 34 * len(lines))


def costs_figure(table: pd.DataFrame) -> Figure:
    """Top-1 against what was trained; the base as a line, for it costs nothing."""
    rows = table[
        table["top1"].notna()
        & (table["method"] != "base")
        & (table["trainable_parameters"].fillna(0) > 0)
    ]
    figure = _side_by_side("Trained parameters (log)")
    for method, row in rows.groupby("method", sort=False):
        figure.add_scatter(
            x=row["trainable_parameters"].astype(float).tolist(),
            y=(100 * row["top1"]).tolist(),
            mode="markers",
            name=method,
            marker={"size": 11, "color": colour_of(method), "symbol": _symbol(method)},
            error_y=_reach(row, "top1", method),
            hovertemplate=f"{method}<br>top-1 %{{y:.1f}}%<br>%{{x:,.0f}}<extra></extra>",
        )
    note = {"annotation_text": "base", "annotation_position": "bottom right"}
    for top1 in _base(table):
        figure.add_hline(top1, line_dash="dot", line_color=BASE, **note)
    figure.update_xaxes(type="log")
    figure.update_yaxes(title="top-1 %", rangemode="tozero")
    return _styled(figure, 430, legend=True)


def classes_figure(classes: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """The classes that gained and lost most against the base; a menu chooses the method.

    Args:
        methods: Trained methods, the one that is shown first at the front.
    """
    from plotly.graph_objects import Figure  # type: ignore[import-untyped, unused-ignore]

    figure = Figure()
    buttons = []
    for number, method in enumerate(methods):
        rows = classes[(classes["method"] == method) & classes["delta"].notna()]
        rows = rows.sort_values(["delta", "class"], ascending=[True, False], kind="stable")
        gained = rows[rows["delta"] > 0].tail(CLASSES_PER_SIDE)
        lost = rows[rows["delta"] < 0].head(CLASSES_PER_SIDE)
        shown = pd.concat([lost, gained])
        labels = [plain(name) for name in shown["class"]]
        figures = (labels, shown["images"].astype(int).tolist(), (100 * shown["accuracy"]).tolist())
        # Positions instead of names, so that two names that look alike stay two bars.
        figure.add_bar(
            y=list(range(len(shown))),
            x=(100 * shown["delta"]).tolist(),
            orientation="h",
            visible=number == 0,
            showlegend=False,
            marker={"color": [GOOD if delta > 0 else BAD for delta in shown["delta"]]},
            customdata=list(zip(*figures, strict=True)),
            hovertemplate="%{customdata[0]}: %{x:+.1f} points to %{customdata[2]:.1f}%, "
            "%{customdata[1]} images<extra></extra>",
        )
        axis = {"tickvals": list(range(len(shown))), "ticktext": labels}
        if number == 0:
            figure.update_yaxes(**axis)
        visible = [other == number for other in range(len(methods))]
        layout = {f"yaxis.{name}": value for name, value in axis.items()}
        buttons.append(
            {"label": method, "method": "update", "args": [{"visible": visible}, layout]}
        )
    if len(methods) > 1:
        place = {"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"}
        figure.update_layout(updatemenus=[{"buttons": buttons, "showactive": True, **place}])
    figure.update_xaxes(
        title="points more or less than the base", zeroline=True, zerolinecolor=BASE
    )
    count = max((len(trace.x) for trace in figure.data), default=0)
    return _styled(figure, 140 + 21 * max(count, 3))


def curves_figure(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """The loss of each training by step."""
    from plotly.graph_objects import Figure  # type: ignore[import-untyped, unused-ignore]

    figure = Figure()
    for method, curve in curves.items():
        dash = "dot" if method.endswith(CONTROL_SUFFIX) else "solid"
        figure.add_scatter(
            x=curve["step"].tolist(),
            y=curve["loss"].tolist(),
            mode="lines",
            name=method,
            line={
                "color": colour_of(method.removesuffix(CONTROL_SUFFIX)),
                "width": 1.6,
                "dash": dash,
            },
            hovertemplate=f"step %{{x:.0f}}: %{{y:.3f}}<extra>{method}</extra>",
        )
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="training loss", rangemode="tozero")
    return _styled(figure, 400, legend=True)


def domains_figure(table: pd.DataFrame, method: str) -> Figure:
    """The difference of one method and of its control to the base in each domain, and their means,
    with intervals.
    """
    from plotly.graph_objects import Figure  # type: ignore[import-untyped, unused-ignore]

    pair = [method, method + CONTROL_SUFFIX]
    rows = table[table["delta_top1"].notna() & table["method"].isin(pair)]
    order = [*rows.loc[rows["domain"] != MEAN, "domain"].unique(), MEAN][::-1]
    figure = Figure()
    for name in pair:
        mine = rows[rows["method"] == name]
        if not mine.empty:
            labels = [plain(domain) for domain in mine["domain"]]
            points = _points(mine, labels, "delta_top1", name)
            figure.add_trace(points.update(name=name, showlegend=True))
    figure.add_vline(0, line_color=BASE, line_dash="dot")
    figure.update_xaxes(title="top-1, points more or less than the base")
    figure.update_yaxes(categoryorder="array", categoryarray=[plain(domain) for domain in order])
    figure.update_layout(scattermode="group", scattergap=0.6)
    return _styled(figure, 190 + 44 * len(order), legend=True)


def _base(table: pd.DataFrame) -> list[float]:
    """Top-1 of the base in percent, if it was measured."""
    values: list[float] = (100 * table.loc[table["method"] == "base", "top1"].dropna()).tolist()
    return values


def _points(rows: pd.DataFrame, labels: Sequence[str], value: str, method: str) -> Any:
    from plotly.graph_objects import Scatter  # type: ignore[import-untyped, unused-ignore]

    low, high = bound_columns(value)
    signed = "+.1f" if value != "top1" else ".1f"
    return Scatter(
        x=(100 * rows[value]).tolist(),
        y=list(labels),
        orientation="h",
        mode="markers",
        showlegend=False,
        marker={
            "size": [12 if domain == MEAN else 10 for domain in rows["domain"]],
            "color": colour_of(method),
            "symbol": [_symbol(method, mean=domain == MEAN) for domain in rows["domain"]],
            "line": {"width": 2, "color": colour_of(method)},
        },
        error_x=_reach(rows, value, method),
        customdata=rows[[low, high]].mul(100).to_numpy().tolist(),
        hovertemplate=f"%{{y}}: %{{x:{signed}}}<br>95% interval %{{customdata[0]:{signed}}} to "
        f"%{{customdata[1]:{signed}}}<extra></extra>",
    )


def _reach(rows: pd.DataFrame, value: str, method: str) -> dict[str, Any]:
    """Bars from values to their bounds."""
    low, high = bound_columns(value)
    if rows[low].isna().all():
        return {}
    above = 100 * (rows[high] - rows[value]).fillna(0)
    below = 100 * (rows[value] - rows[low]).fillna(0)
    return {
        "type": "data",
        "symmetric": False,
        "array": above.tolist(),
        "arrayminus": below.tolist(),
        "color": colour_of(method),
        "thickness": 1.3,
        "width": 4,
    }


def _symbol(method: str, *, mean: bool = False) -> str:
    shape = "diamond" if mean else "square" if method == "base" else "circle"
    return f"{shape}-open" if method.endswith(CONTROL_SUFFIX) else shape


def _side_by_side(*titles: str, **options: Any) -> Figure:
    from plotly.subplots import make_subplots  # type: ignore[import-untyped, unused-ignore]

    return make_subplots(
        rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.06, **options
    )


def _styled(figure: Figure, height: int, *, legend: bool = False) -> Figure:
    figure.update_layout(
        height=height,
        showlegend=legend,
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={
            "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
            "size": 13,
            "color": INK,
        },
        margin={"l": 20, "r": 20, "t": 34, "b": 118 if legend else 48},
        hoverlabel={"bgcolor": "white", "bordercolor": RULE, "font": {"color": INK}},
        legend={"orientation": "h", "y": -64 / (height - 160), "yanchor": "top", "x": 0},
    )
    figure.update_annotations(font={"size": 13, "color": INK})
    figure.update_xaxes(gridcolor=RULE, zeroline=False, automargin=True, ticks="")
    figure.update_yaxes(gridcolor=RULE, zeroline=False, automargin=True, ticks="")
    return figure
