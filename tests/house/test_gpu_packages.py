"""The packages for GPUs: which cards they serve, and that none takes the place of faiss-cpu."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from benchmarks import gpu_packages

ROOT = Path(__file__).parents[2]
FACTS = json.loads(gpu_packages.FACTS.read_text())


def test_page_has_the_cards_that_the_wheels_hold_code_for() -> None:
    assert gpu_packages.table() in (ROOT / "docs" / "gpu.md").read_text()


def test_a_card_runs_code_of_its_generation_or_older_ptx() -> None:
    facts = {"code": [70, 80], "ptx": [90]}
    served = {card: gpu_packages.serves(facts, card) for card in (60, 70, 75, 86, 90, 120)}
    assert served == {60: "no", 70: "yes", 75: "yes", 86: "yes", 90: "PTX", 120: "PTX"}


def test_every_cuda_of_the_image_is_in_the_table() -> None:
    pages = [(ROOT / name).read_text() for name in ("Dockerfile", "docs/gpu.md")]
    named = {cuda for page in pages for cuda in re.findall(r"\bcu\d{3}\b", page)}
    assert named == {name.split()[1] for name in FACTS if name.startswith("torch, ")}


def test_versions_of_the_table_are_those_that_are_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"]]
    asked += [Requirement(text) for text in re.findall(r"'(faiss-gpu\S+)'", made("GPU=1"))]
    ranges = {one.name: one.specifier for one in asked}
    for name in ("torch, cu130", "torch, cu126", "faiss-gpu"):
        assert FACTS[name]["version"] in ranges[FACTS[name]["package"]]


def test_faiss_for_gpus_is_installed_beside_faiss_cpu() -> None:
    lines = [line for line in made("GPU=1").splitlines() if "faiss" in line]
    assert lines and all("--target" in line for line in lines)
    assert "uninstall" not in made("GPU=1") and "faiss" not in made()


def made(*variables: str) -> str:
    """The commands of `make install` in a fresh clone."""
    command = ["make", "-n", "install", "VENV=build/none", *variables]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
