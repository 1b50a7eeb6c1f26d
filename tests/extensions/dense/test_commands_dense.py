from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.dense import OWN, write_sets

from react_pipeline.commands.cli import main
from react_pipeline.extensions.dense.settings import dense_sets
from react_pipeline.project.project import Project


@pytest.fixture
def run(
    make_project: Callable[..., Project], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    write_sets(tmp_path / "dense" / "shapes")
    config = str(make_project(dense={"root": "dense", "own": OWN, "datasets": ["voc-20"]}).path)

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            main(["dense", *arguments, *(["--config", config] if arguments[0] == "check" else [])])
        reported = capsys.readouterr()
        return int(stop.value.code or 0), reported.out + reported.err

    return call


def test_list_shows_every_known_set(run: Callable[..., tuple[int, str]]) -> None:
    code, out = run("list")
    assert code == 0 and all(name in out for name in dense_sets())


def test_check_reads_all_files_and_fails_only_for_what_is_wrong(
    run: Callable[..., tuple[int, str]], tmp_path: Path
) -> None:
    code, out = run("check", "shapes")
    states = {
        line.split()[0]: line.split()[2]
        for line in out.splitlines()
        if line.split()[0] in ("boxes", "masks")
    }
    assert code == 0 and states == {"boxes": "ok", "masks": "ok"} and "missing" in out
    Image.fromarray(np.zeros((64, 65), np.uint8)).save(
        tmp_path / "dense" / "shapes" / "labels" / "2.png"
    )
    code, out = run("check", "shapes")
    assert code == 1 and "65, 64" in out


@pytest.mark.parametrize("domain", [[], ["nosuch"]])
def test_check_wants_the_name_of_a_domain(
    run: Callable[..., tuple[int, str]], domain: list[str]
) -> None:
    code, out = run("check", *domain)
    assert code == 2 and "shapes" in out
