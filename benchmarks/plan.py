"""What `react-pipeline plan` announces and what the steps then take, on a project that is built
anew.

Run `.venv/bin/python -m benchmarks.plan --page benchmarks/results.md` on a quiet machine, for four
minutes on 2 cores. On a busy one add `--processor-time`: everything runs in one thread, is
announced for one core, and measured in processor seconds (user and system) in place of the clock's.
Steps run in one process, as in `materialize`, without Dagster.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from markupsafe import Markup

from benchmarks.methods import write_section
from react_pipeline.extensions.plan import Machine, plan_of
from react_pipeline.lineage import run
from react_pipeline.pages import markdown_table
from react_pipeline.project import Project
from react_pipeline.settings import load_domains
from react_pipeline.stage import STAGES

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- plan:begin -->", "<!-- plan:end -->"
ALLOWED, FROM_SECONDS = 2.5, 5
"""How far from its announcement a step may be that takes so many seconds or more."""
LEFT_OUT = ("benchmark", "dense", "guards")
"""Groups of stages that `plan` says nothing of."""


def processor_clock() -> float:
    """Processor seconds of this process and of its children that have ended."""
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, whose))


def comparison(announced: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """A table of seconds by stage; ratios of steps that take `FROM_SECONDS`, in bold where they are
    too far off.
    """
    rows = []
    for stage, seconds in measured.items():
        shown = announced.get(stage)
        ratio = "" if shown is None or seconds < FROM_SECONDS else f"{shown / seconds:.2f}"
        if ratio and not 1 / ALLOWED <= float(ratio) <= ALLOWED:
            ratio = Markup(f"**{ratio}**")
        rows.append(
            [
                Markup(f"`{stage}`"),
                "–" if shown is None else f"{shown:,.1f}",
                f"{seconds:,.1f}",
                ratio,
            ]
        )
    return markdown_table(["step", "announced, s", "measured, s", "ratio"], rows).rstrip()


def build(project: Project, now: Callable[[], float]) -> dict[str, float]:
    """Make everything but the benchmark; seconds by stage."""
    slugs, seconds = list(load_domains(project.config.domains)[0]), dict[str, float]()
    for row in STAGES.values():
        for key in row.keys(slugs, project.config.methods) if row.group not in LEFT_OUT else ():
            began = now()
            run(project, row.name, key)
            seconds[row.name] = seconds.get(row.name, 0.0) + now() - began
    return seconds


def main() -> None:
    """Run, and write the page if one is named."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=ROOT / "pipeline.yaml")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="on a busy machine: one core, processor seconds",
    )
    parser.add_argument("--page", type=Path, help="gets the table between its markers")
    given = parser.parse_args()
    now, machine = time.monotonic, ""
    if given.processor_time:
        import faiss
        import torch

        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        now, machine = processor_clock, "cores=1"
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(given.config, name)
        shutil.copytree(Project.load(given.config).config.domains, Path(name, "domains"))
        project = Project.load(Path(name, given.config.name))
        plan = plan_of(project, Machine.here(project.config.store).changed(machine))
        announced = {step.stage: 3_600 * step.cpu_hours for step in plan.steps}
        text = comparison(announced, build(project, now))
    print(text)
    if given.page:
        write_section(given.page, text, BEGIN, END)


if __name__ == "__main__":
    main()
