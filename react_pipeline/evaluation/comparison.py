"""Comparison: the results of a domain's methods with those of the base, as tables, a figure and a
page; and the evidence on its models apart from results on labelled images.

Belongs here: differences to the base and to the control, what evidence offers. Does not belong
here: measuring (`domain_results`), intervals (`intervals`), any evidence, how tables and page look
(`tables`, and pages of extensions), the rule for models without labelled images (`promotion`).
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq

from react_pipeline.evaluation.domain_results import EVALUATOR_VERSION, EvalResult
from react_pipeline.evaluation.intervals import (
    Gains,
    count_gains,
    paired_interval,
    share_interval,
)
from react_pipeline.evaluation.metrics import METRICS
from react_pipeline.evaluation.tables import (
    BOUNDS,
    EVIDENCE_DIFFERENCES,
    SEED_COLUMNS,
    draw_methods,
    over_seeds,
    per_class_table,
    present_values,
    typed,
    write_tables,
)
from react_pipeline.lineage import Contents, gather, gathered_is_current, resolve
from react_pipeline.project import Project
from react_pipeline.settings import CONTROL_SUFFIX
from react_pipeline.stage import (
    COMPARISON,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    RETRIEVED_SET,
)
from react_pipeline.store import Artifact, Inputs, MissingArtifact, Scratch

if TYPE_CHECKING:
    from react_pipeline.promotion import Contender, Judgement

COSTS = ("pairs", "trainable_parameters")
"""Counts of a training; the base has none."""

MUST_AGREE = ("evaluator_version", "evaluation_set_fingerprint", "dataset", "n_classes")
"""Fields that two comparable results share: what was measured, not what was learned from."""

GAINS = "gains.json"
"""The file that an overview reads instead of results."""

AllGains = Mapping[str, Mapping[str, Gains]]
"""By method, and by what it is compared with."""


class Evidence(ABC):
    """Evidence on the models of one domain, as it is today.

    Attributes:
        inputs: Of the artifact that keeps it. Its stage is its name among parents.
        columns: Which of `tables.EVIDENCE_DIFFERENCES` it fills.
        title: Heading of its section on a page.
        explanation: How it was obtained, and what its intervals mean.
        decides: Whether it may `judge` where there are no labelled images; else it may only object.
    """

    inputs: Inputs
    columns: ClassVar[tuple[str, ...]]
    title: ClassVar[str]
    explanation: ClassVar[str]
    decides: ClassVar[bool] = False

    @abstractmethod
    def publish(self, project: Project) -> Artifact:
        """Publish it; the artifact that is there already if nothing is new."""

    @abstractmethod
    def rows(self, checkpoints: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
        """Return the values of its columns by method, and the `status` of a method without labelled
        images.

        Args:
            checkpoints: Fingerprints of today's checkpoints, by method.
        """

    @abstractmethod
    def sentences(self, checkpoint: str = "") -> list[str]:
        """Return each comparison in a sentence; of one checkpoint, or of all."""

    def objection(self, project: Project, contender: Contender) -> str:
        """Return why a candidate may not become champion, whatever its result; "" if it may."""
        return ""

    def models(self, project: Project) -> Mapping[str, str]:
        """Return the fingerprints of today's models that `judge` tests, by name. A decision is
        repeated when they change.
        """
        return {}

    def judge(
        self,
        project: Project,
        champion: Contender,
        champion_name: str,
        turned_down: Collection[str],
    ) -> Judgement:
        """Test candidates against the champion of a domain without labelled images.

        Args:
            champion_name: How the reason names it.
            turned_down: Checkpoints that may not become champion.
        """
        raise NotImplementedError


def collect_evidence(project: Project, slug: str) -> dict[str, Evidence]:
    """Return the evidence on a domain's models as it is today, by the stage of its artifact."""
    from react_pipeline.extensions import guards, pages

    evidence: dict[str, Evidence] = {}
    # Most projects have no guard sets, and automation asks every minute.
    if project.config.section(guards.GuardsConfig).sets:
        evidence[guards.GUARD_DROPS] = guards.read_drops(project, slug)
    if judgements := pages.read_judgements(project, slug):
        evidence[pages.JUDGEMENTS] = judgements
    return evidence


@dataclass(frozen=True)
class Compared:
    """The methods of one domain, as pages show them.

    Attributes:
        title: Of the domain, as it is now; "" if it has none.
        table: A row a method, as in `table.parquet`.
        classes: A row a method and class, as in `per_class.parquet`.
        checkpoints: By method, the trained model behind its result.
        retrieved: The pairs that the methods were trained on; None where nothing was trained on
            retrieved pairs.
        evidence: On models beside labelled images.
    """

    slug: str
    title: str
    table: pd.DataFrame
    classes: pd.DataFrame
    checkpoints: Mapping[str, Artifact]
    retrieved: Artifact | None
    evidence: Mapping[str, Evidence]


def compare(project: Project, slug: str) -> Artifact:
    """Publish the table of a domain: one row for each method that has ever been evaluated.

    Only fresh results give numbers, so all are of the same evaluator and the same images; the row
    of a stale or unavailable one says so in `status`.
    Values are fractions. `delta_low` and `delta_high` bound `delta_top1` (to the base), `gain_low`
    and `gain_high` bound `gain_over_control`, by a paired bootstrap over the images (95%, 10,000
    resamples, fixed seed): they cover the sampling of images, not training seeds, whose mean and
    standard deviation are in `tables.SEED_COLUMNS`. Evidence adds columns of its own.

    Files: `table.parquet`, `table.csv`, `table.md`, `comparison.png`, `per_class.parquet`,
    `per_class.csv`, `gains.json`, and `dashboard.html`, which shows all of it and loads nothing
    from elsewhere.

    Raises:
        MissingArtifact: If no method has a fresh result.
    """
    from react_pipeline.extensions.pages import domain_page

    results, skipped = gather(project, COMPARISON, slug)
    if not results:
        reasons = "; ".join(skipped.values()) or "none was evaluated"
        raise MissingArtifact(
            f"{slug}: no result to compare ({reasons}); materialize `{DOMAIN_RESULTS}` for "
            f"{slug!r}",
            (COMPARISON, slug),
        )
    read = {method: EvalResult.read(artifact) for method, artifact in results.items()}
    evidence = collect_evidence(project, slug)
    parents = results | {name: one.publish(project) for name, one in evidence.items()}
    inputs = resolve(project, COMPARISON, slug, parents=parents, content={"skipped": skipped})

    def write(directory: Path, _: Scratch) -> dict[str, Any]:
        checkpoints = {
            method: project.store.open(CUSTOMIZED_CHECKPOINT, result.key, trained)
            for method, result in results.items()
            if (trained := result.parents.get(CUSTOMIZED_CHECKPOINT))
        }
        gains = _gains(results, read)
        summary = {"evaluator_version": EVALUATOR_VERSION, "gains": gains}
        (directory / GAINS).write_text(json.dumps(summary))
        order = [name for name in project.config.all_methods if name in {**results, **skipped}]
        table = over_seeds(_table(slug, order, gains, read, checkpoints, skipped, evidence))
        write_tables(table, directory)
        retrieved = _retrieved_sets(project, slug, checkpoints)
        classes = per_class_table(slug, results, retrieved)
        classes.to_parquet(directory / "per_class.parquet", index=False)
        classes.to_csv(directory / "per_class.csv", index=False)
        of_any = next(iter(retrieved.values()), None)
        title = project.domain(slug).title  # for display alone: another makes no other comparison
        compared = Compared(slug, title, table, classes, checkpoints, of_any, evidence)
        picture = directory / "comparison.png"
        draw_methods(table, picture, slug)
        page = domain_page(project, compared, picture)
        (directory / "dashboard.html").write_text(page, encoding="utf-8")
        return _counts(table, skipped)

    return project.store.build(inputs, write)


def comparison_is_current(project: Project, slug: str) -> Artifact:
    """Return the published comparison, if it is the one that `compare` would build today:
    `lineage.gathered_is_current`.
    """

    def today() -> Contents:
        results, skipped = gather(project, COMPARISON, slug)
        evidence = collect_evidence(project, slug)
        return {**results, **{name: one.inputs for name, one in evidence.items()}}, skipped

    return gathered_is_current(project, COMPARISON, slug, today)


def _table(
    slug: str,
    methods: Sequence[str],
    gains: AllGains,
    read: Mapping[str, EvalResult],
    checkpoints: Mapping[str, Artifact],
    skipped: Mapping[str, str],
    evidence: Mapping[str, Evidence],
) -> pd.DataFrame:
    fingerprints = {method: result.checkpoint_fingerprint for method, result in read.items()}
    added = [one.rows(fingerprints) for one in evidence.values()]
    decides = any(one.decides for one in evidence.values())
    rows: list[dict[str, Any]] = []
    for method in methods:
        row: dict[str, Any] = {"domain": slug, "method": method, "status": skipped.get(method)}
        rows.append(row)
        if method in skipped:
            continue
        result = read[method]
        counts = checkpoints[method].counts if method in checkpoints else dict.fromkeys(COSTS, 0)
        row |= {name: counts[name] for name in COSTS}
        row |= {"dataset": result.dataset, "fingerprint": fingerprints[method]}
        not_judged = result.dataset == "none" and decides
        row["status"] = "not judged" if not_judged else f"unavailable: {result.unavailable}"
        for one in added:
            row |= one.get(method, {})
        if result.top1 is None:
            continue
        row |= {metric: getattr(result, metric, None) for metric in METRICS}
        row |= {"n": result.n, "status": "ok"}
        row |= zip(BOUNDS["top1"], share_interval(result.top1, result.n), strict=True)
        for other, over in gains[method].items():
            name = "delta_top1" if other == "base" else "gain_over_control"
            row[name] = result.top1 - (read[other].top1 or 0.0)
            row |= zip(BOUNDS[name], paired_interval(over), strict=True)
    return typed(rows)


def _gains(results: Mapping[str, Artifact], read: Mapping[str, EvalResult]) -> AllGains:
    """Return the gains of each measured method over the base and over its control."""
    measured = [method for method, result in read.items() if result.top1 is not None]
    right = {method: read_correct(results[method]) for method in measured}
    return {
        method: {
            other: count_gains(right[method].to_numpy(), right[other].to_numpy())
            for other in ("base", method + CONTROL_SUFFIX)
            if other in right
        }
        for method in measured
    }


def read_gains(comparison: Artifact) -> AllGains:
    """Return the gains of a published comparison."""
    gains: AllGains = json.loads(comparison.file(GAINS).read_text())["gains"]
    return gains


def _retrieved_sets(
    project: Project, slug: str, checkpoints: Mapping[str, Artifact]
) -> dict[str, Artifact]:
    """Return the retrieved set that each method but a control was trained on."""
    return {
        method: project.store.open(RETRIEVED_SET, slug, checkpoint.parents[RETRIEVED_SET])
        for method, checkpoint in checkpoints.items()
        if RETRIEVED_SET in checkpoint.parents
    }


def read_correct(result: Artifact, folder: str = "") -> pd.Series:
    """Whether each image of a published result is named right, by the image's name, sorted."""
    columns = ["image", "predicted", "class_id"]
    # pandas takes five times as long, and an overview reads thousands.
    table = pq.ParquetFile(result.file(f"{folder}predictions.parquet")).read(columns=columns)
    right = pc.equal(pc.list_element(table["predicted"], 0), table["class_id"])
    return pd.Series(right.to_numpy(), table["image"].to_numpy()).sort_index()


def _counts(table: pd.DataFrame, skipped: Mapping[str, str]) -> dict[str, Any]:
    by_method = table.set_index("method")
    measured = by_method[by_method["status"] == "ok"]
    trained = measured.drop("base", errors="ignore")
    return {
        "methods": list(measured.index),
        "skipped": dict(skipped),
        "top1": present_values(measured["top1"]),
        "delta_top1": present_values(trained["delta_top1"]),
        "gain_over_control": present_values(trained["gain_over_control"]),
        **{name: present_values(by_method[name]) for name in EVIDENCE_DIFFERENCES},
        **{name: present_values(by_method[name]) for name in SEED_COLUMNS if name in table},
    }
