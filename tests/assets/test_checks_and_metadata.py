from __future__ import annotations

import errno
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from react_pipeline.assets import warning_below
from react_pipeline.assets.metadata import MAX_PICTURE_BYTES, data_uri, describe
from react_pipeline.assets.retries import readable_failures
from react_pipeline.pages import markdown_table
from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Inputs
from react_pipeline.store.errors import RetrievalError


def test_loss_of_accuracy_only_warns() -> None:
    result = warning_below(-0.02, "top-1", tolerance=1e-9, remedy="look at the pairs")
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert str(result.description).endswith("-2.0 points; look at the pairs")
    assert warning_below(0.0, "", tolerance=1e-9).passed
    assert not warning_below(0.0, "", tolerance=-1e-9).passed


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RetrievalError("no pair"), "no pair"),
        (KeyError("x"), "KeyError: 'x'"),
        (PermissionError(errno.EACCES, "Permission denied", "store"), "store: Permission denied"),
        (KeyboardInterrupt(), "interrupted"),
        (dg.DagsterExecutionInterruptedError(), "interrupted"),
    ],
)
def test_what_fails_the_same_way_again_is_not_tried_again(error: BaseException, text: str) -> None:
    with pytest.raises(dg.Failure, match=text) as failure, readable_failures():
        raise error
    assert failure.value.allow_retries is False


def test_pictures_are_made_small_enough(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1_500, 1_500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(data_uri(tmp_path / "noise.png")) < MAX_PICTURE_BYTES + 100


def test_counts_pictures_tables_and_pages_of_an_artifact_are_shown(tiny_project: Project) -> None:
    counts = {"share": 0.5, "ok": True, "dropped": {"cap": 2}, "starving": ["a", "b"]}

    def write(directory: Path, _: object) -> dict[str, object]:
        for name in ("similarity.png", "contact_sheet.png"):
            Image.new("RGB", (4, 4)).save(directory / name)
        (directory / "table.md").write_text(markdown_table(["<i>a</i>"], []))
        (directory / "dashboard.html").write_text("page")
        pd.DataFrame({"row": [1, 2]}).to_parquet(directory / "pairs.parquet")
        return counts

    artifact = tiny_project.store.build(Inputs("retrieved_set", "shapes", {}, {}, "1"), write)
    shown = describe(artifact)
    assert (shown["share"], shown["dropped.cap"], shown["starving"]) == (0.5, 2, "a, b")
    assert shown["ok"] is True and shown["fingerprint"] == artifact.fingerprint
    assert all("base64" in shown[name].value for name in ("similarity", "contact_sheet"))
    assert shown["table"].value.startswith(r"| \<i\>a\</i\> |")
    assert shown["dashboard"].value == str(artifact.path / "dashboard.html")
    assert [*shown][:2] == ["contact_sheet", "similarity"]
    assert [*shown][-2:] == ["dagster/uri", "fingerprint"]
    assert shown["dagster/row_count"] == 2
    assert [one.name for one in shown["dagster/column_schema"].columns] == ["row"]
