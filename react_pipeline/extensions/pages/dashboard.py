"""Dashboards: a comparison, or the overview of all domains, as one HTML page that needs nothing but
itself.

A page holds every picture, and its policy forbids the browser to load or run anything. Class names,
captions, file names and reasons come from outside; the templates escape them. Does not belong here:
the text at its head (`findings`).
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from react_pipeline.corpus import BadImage, CollectedPairs, thumbnail
from react_pipeline.evaluation import MEAN, Compared, percent, points, table_cells
from react_pipeline.extensions.pages.findings import find_in_domain, find_over_domains
from react_pipeline.pages import render
from react_pipeline.project import Project
from react_pipeline.promotion import standing
from react_pipeline.store import Artifact

MAX_CLASS_ROWS = 500
"""Classes listed on the page; the rest is in `per_class.csv`."""
MAX_CLASSES, PAIRS_PER_CLASS = 24, 4
"""Classes that are shown with pictures, and how many of each."""

logger = logging.getLogger(__name__)


def domain_page(project: Project, compared: Compared, picture: Path) -> str:
    """Return the page of one domain; `picture` is a PNG of its methods."""
    table, evidence = compared.table, compared.evidence.values()
    title = compared.title or compared.slug
    champion = standing(project, compared.slug)[0].champion
    trained = compared.checkpoints.get(champion.method)
    stands = trained is not None and trained.fingerprint == champion.checkpoint
    finding = find_in_domain(table, evidence, champion.method if stands else "")
    classes = compared.classes
    mine = classes[(classes["method"] == finding.method) & classes["delta"].notna()]
    mine = mine.sort_values("delta", ascending=False, kind="stable")
    names = list(dict.fromkeys([*mine["class"], *project.domain(compared.slug).class_names]))
    texts = {
        "Class": mine["class"],
        "Images": mine["images"],
        "Accuracy %": mine["accuracy"].map(percent),
        "Over base": mine["delta"].map(points),
    }
    return render(
        "extensions/pages",
        "domain.html",
        page_title=f"{title}: comparison",
        kind=f"Comparison of methods on one domain: {compared.slug}",
        title=title,
        finding=finding,
        picture=_png(picture),
        # Of five classes or fewer every answer is among the first five.
        table=_numbers(table, ("domain", "top5") if len(names) <= 5 else ("domain",)),
        evidence=evidence,
        class_count=len(mine),
        classes=_html(pd.DataFrame(texts).head(MAX_CLASS_ROWS)),
        retrieved=compared.retrieved and _examples(compared.retrieved, names),
        datasets=sorted({str(name) for name in table["dataset"].dropna()}),
    )


def overview_page(table: pd.DataFrame, picture: Path) -> str:
    """Return the page of all domains, from the table of `overview` and a PNG of the means."""
    is_mean = table["domain"] == MEAN
    return render(
        "extensions/pages",
        "overview.html",
        page_title="All domains: overview",
        kind="Comparison of methods over all domains",
        title="All domains",
        finding=find_over_domains(table),
        picture=_png(picture),
        means=_numbers(table[is_mean], ("domain", "n")),
        # With top-5 the table would be wider than the page; it is on the page of each domain.
        domains=_numbers(table[~is_mean], ("top5",)),
    )


def _png(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _numbers(table: pd.DataFrame, left_out: Sequence[str]) -> Markup:
    """Return a comparison as an HTML table; the status only where it says something."""
    heads, rows = table_cells(table, left_out)
    texts = pd.DataFrame([map(str, row) for row in rows], columns=list(heads.values()))
    if not (table["status"] == "ok").all():
        texts["status"] = table["status"].to_numpy()
    return _html(texts)


def _html(table: pd.DataFrame) -> Markup:
    # pandas escapes names, which come from outside.
    with pd.option_context("display.max_colwidth", None):
        return Markup(table.to_html(index=False, border=0, escape=True))  # noqa: S704


def _examples(retrieved: Artifact, names: Sequence[str]) -> dict[str, Any]:
    """Return the best pictures of the first and last of these classes, and those without a pair.

    Raises:
        CorruptArtifact: If the set's shards cannot be read, or are not those of its manifest.
    """
    columns = ["row", "class", "similarity"]
    pairs = pd.read_parquet(retrieved.file("pairs.parquet"), columns=columns)
    best = pairs.sort_values("similarity", ascending=False, kind="stable").groupby("class")
    rows = {label: list(group["row"][:PAIRS_PER_CLASS]) for label, group in best}
    filled = [name for name in names if name in rows]
    half = MAX_CLASSES // 2
    collected = CollectedPairs(retrieved)
    place = pd.Series(range(len(collected)), collected.rows)
    examples: dict[str, list[tuple[str, str]]] = {}
    for name in dict.fromkeys([*filled[:half], *filled[-half:]]):
        examples[name] = []
        for position in place[rows[name]]:
            try:
                pair = collected[int(position)]
                examples[name].append((pair.caption, thumbnail(pair.image)))
            except BadImage as error:
                logger.warning("a picture of %s cannot be shown: %s", retrieved.path, error)
    empty = [name for name in names if name not in rows]
    return {"pairs": len(pairs), "classes": len(names), "examples": examples, "empty": empty}
