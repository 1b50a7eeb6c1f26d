"""Reports: the published comparisons as a folder that can be sent to someone.

Nothing is measured here, and a stale comparison gives no number.
"""

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from react_pipeline.evaluation import current_comparisons
from react_pipeline.extensions.dashboard.overview import OVERVIEW, write_overview
from react_pipeline.pages import render
from react_pipeline.project import Project
from react_pipeline.stage import ALL, COMPARISON
from react_pipeline.store import InputError, MissingArtifact

FORMATS = ("html", "csv", "parquet", "md", "json", "png")

_NAMES = ("dashboard", "table", "per_class", "comparison", "overview")
"""What the files of a report are called; only these are ever replaced or removed."""


@dataclass
class Report:
    """What was written where: `index` is the page to open, `missing` says why a domain is not in
    it.
    """

    index: Path | None = None
    files: list[Path] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def write_report(
    project: Project,
    directory: Path,
    domains: Sequence[str] = (),
    formats: Collection[str] = FORMATS,
) -> Report:
    """Write the current comparisons, one folder a domain, and over all domains the overview, into a
    folder.

    What an earlier report left there of a domain that is not current any more is removed.

    Args:
        domains: Slugs; none: all valid domain files, and the overview.

    Raises:
        MissingArtifact: If no domain has a current comparison.
        InputError: If a domain is unknown, or the folder cannot be written.
    """
    for slug in domains:
        project.domain(slug)
    comparisons, missing = current_comparisons(project, domains or None)
    report = Report(missing=missing)
    if not comparisons:
        reasons = "; ".join(missing.values()) or f"no domain file in {project.config.domains}"
        raise MissingArtifact(
            f"nothing to report ({reasons}); materialize `comparison`", (COMPARISON, ALL)
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for slug in (*comparisons, *missing, *(() if domains else (OVERVIEW,))):
            _clear(directory / slug, FORMATS)
        for slug, artifact in comparisons.items():
            (directory / slug).mkdir(exist_ok=True)
            for name in artifact.manifest["files"]:
                if Path(name).stem in _NAMES and name.rpartition(".")[2] in formats:
                    report.files.append(
                        Path(shutil.copyfile(artifact.file(name), directory / slug / name))
                    )
        if not domains:
            target = directory / OVERVIEW
            target.mkdir(exist_ok=True)
            write_overview(project, comparisons, missing, target)
            _clear(target, set(FORMATS) - set(formats))
            report.files += sorted(target.iterdir())
        if "html" in formats:
            links = [] if domains else [("All domains", OVERVIEW)]
            _write_index(report, directory, [*links, *((slug, slug) for slug in comparisons)])
    except OSError as error:
        raise InputError(
            f"{error.filename or directory}: {error.strerror}; give another --output"
        ) from error
    return report


def _write_index(report: Report, directory: Path, links: Sequence[tuple[str, str]]) -> None:
    values = {"page_title": "Report", "links": links, "missing": report.missing}
    report.index = directory / "index.html"
    report.index.write_text(render("extensions/dashboard", "index.html", **values), "utf-8")
    report.files.append(report.index)


def _clear(target: Path, formats: Collection[str]) -> None:
    for path in target.glob("*") if target.is_dir() else ():
        if path.stem in _NAMES and path.suffix.removeprefix(".") in formats:
            path.unlink()
