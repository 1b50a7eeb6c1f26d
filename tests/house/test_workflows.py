"""The workflows: actions cannot change under us."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


def steps(path: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_digest(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    assert [
        line for line in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", line)
    ] == []
    assert len(used) == sum("uses" in step for step in steps(path))


def test_only_the_job_that_publishes_may_ask_for_its_identity() -> None:
    release = yaml.safe_load((REPOSITORY / ".github/workflows/release.yml").read_text())
    publish = release["jobs"]["publish"]
    assert release["permissions"] == {"contents": "read"} and "secrets." not in str(release)
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert not any("checkout" in step.get("uses", "") for step in publish["steps"])
