"""The workflows: actions cannot change under us."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_digest(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text())
    pinned = re.compile(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+")
    assert used and all(map(pinned.fullmatch, used)), used
    jobs = yaml.safe_load(path.read_text())["jobs"].values()
    assert len(used) == sum("uses" in step for job in jobs for step in job["steps"])


def test_only_the_job_that_publishes_may_ask_for_its_identity() -> None:
    release = yaml.safe_load((REPOSITORY / ".github/workflows/release.yml").read_text())
    assert release["permissions"] == {"contents": "read"}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert "secrets." not in str(release)
    assert not any("checkout" in step.get("uses", "") for step in publish["steps"])
