"""The report of a retrieved set: for each class what was found, kept and dropped, as tables, a
picture and a page.

Does not belong here: deciding (`ranking`), the contact sheet (`chosen_pairs`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from react_pipeline.pages import markdown_table, render
from react_pipeline.retrieval.queries import Queries
from react_pipeline.retrieval.ranking import DROP_REASONS, SHARED, of_kept_rows
from react_pipeline.settings import DomainConfig, RetrievalConfig
from react_pipeline.store import Artifact, Scratch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 1_000
"""Classes listed on the page; the fewest pairs first. All of them are in `classes.parquet`."""
_BINS = 50


class ClassTable(NamedTuple):
    """The classes of a retrieved set, to be described by extensions.

    Attributes:
        classes: From `class_report`; further columns are shown.
        directory: Takes further files of the artifact.
        scratch: Takes what a build that is resumed shall not do again.
    """

    domain: DomainConfig
    embeddings: Artifact
    classes: pd.DataFrame
    directory: Path
    scratch: Scratch


class ClassNotes(NamedTuple):
    """Counts for the manifest, and a warning about the classes; "" for none."""

    counts: Mapping[str, Any]
    warning: str


def class_report(
    domain: DomainConfig,
    queries: Queries,
    hits: pd.DataFrame,
    candidates: pd.DataFrame,
    settings: RetrievalConfig,
) -> pd.DataFrame:
    """Return a row for each class, in the domain's order: candidates = kept + several_classes +
    the sum over `DROP_REASONS`.

    `several_classes` counts rows that another class wants more and reports. `shortfall` is how many
    hits fewer than k per query and mode the index gave (it holds fewer rows, or its search found no
    more).

    Args:
        hits: Of the search, a row each.
    """
    classes = pd.DataFrame({"class": domain.class_names})
    counts = pd.crosstab(candidates["class_id"], candidates["dropped"]).rename(columns={"": "kept"})
    counts = counts.reindex(columns=["kept", SHARED, *DROP_REASONS], fill_value=0)
    classes["prompts"] = queries.prompts["class_id"].value_counts()
    classes["seeds"] = queries.seeds["class_id"].value_counts()
    classes["candidates"] = candidates["class_id"].value_counts()
    classes = classes.join(counts).fillna(0)
    text_modes = sum(mode != "i2i" for mode in settings.modes)
    searches = classes["prompts"] * text_modes + classes["seeds"] * ("i2i" in settings.modes)
    found = hits["class_id"].value_counts().reindex(classes.index, fill_value=0)
    shortfall = searches * settings.k_per_prompt - found
    classes["shortfall"] = 0 if settings.choose == "all" else shortfall
    numbers = [column for column in classes.columns if column != "class"]
    return classes.astype(dict.fromkeys(numbers, "int64"))


def write_report(
    directory: Path,
    title: str,
    classes: pd.DataFrame,
    candidates: pd.DataFrame,
    settings: RetrievalConfig,
    counts: Mapping[str, Any],
    warning: str = "",
) -> None:
    """Write `classes.parquet`, `similarity.png` and `report.md`, in which names from outside are
    escaped.

    Args:
        classes: From `class_report`.
        counts: The artifact's counts: pairs, classes, starving, evaluation_sets.
        warning: A sentence for people.
    """
    classes.to_parquet(directory / "classes.parquet", index=False)
    draw_similarity(candidates, settings).savefig(
        directory / "similarity.png", metadata={"Software": None}
    )
    idle = [name for name in ("seeds", *DROP_REASONS, "shortfall") if not classes[name].any()]
    table = classes.drop(columns=idle).fillna("").sort_values("kept", kind="stable")
    rows = table.head(MAX_ROWS).itertuples(index=False, name=None)
    dropped = [
        (reason, int(classes[reason].sum()), meaning)
        for reason, meaning in DROP_REASONS.items()
        if reason not in idle
    ]
    page = render(
        "retrieval",
        "report.md",
        title=title,
        counts=counts,
        classes=len(classes),
        warning=warning,
        candidates=int(classes["candidates"].sum()),
        minimum=settings.min_per_class,
        dropped=Markup(markdown_table(["reason", "pairs", "meaning"], dropped)) if dropped else "",  # noqa: S704
        table=Markup(markdown_table(list(table), rows)),  # noqa: S704
        more=len(classes) - MAX_ROWS,
    )
    (directory / "report.md").write_text(page, encoding="utf-8")


def draw_similarity(candidates: pd.DataFrame, settings: RetrievalConfig) -> Figure:
    """Draw histograms of similarity, kept next to dropped, one panel a mode."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(settings.modes), 3.2), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(settings.modes), squeeze=False)[0]
    kept = of_kept_rows(candidates)
    for mode, panel in zip(settings.modes, panels, strict=True):
        of_mode = candidates["mode"] == mode
        both = [candidates.loc[of_mode & some, "similarity"] for some in (kept, ~kept)]
        panel.hist(
            both,
            bins=_BINS,
            stacked=True,
            histtype="stepfilled",  # one shape, and not a patch for each bin, which is slow
            label=[f"kept ({len(both[0]):,})", f"dropped ({len(both[1]):,})"],
            color=["#2a6f97", "#c9c9c9"],
        )
        if (floor := settings.min_similarity.get(mode)) is not None:
            panel.axvline(floor, color="#b3261e", linewidth=1)
        panel.set(title=mode, xlabel="cosine of query and pair", ylabel="candidates")
        panel.legend(frameon=False)
    return figure
