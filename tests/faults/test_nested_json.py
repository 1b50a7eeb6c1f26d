"""FAULTS 55, 56, 58: JSON nested too deeply for the parser is as damaged as any other that cannot
be parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.clip.architecture import CONFIG_FILE, read_config
from react_pipeline.extensions.predict.run_folder import RUN_FILE, _record
from react_pipeline.project.template import LOCK_FILE, ui_record
from react_pipeline.store.errors import CorruptArtifact, InputError
from react_pipeline.use.classifier import RECORD_FILE, load_exported

NESTED = "[" * 100_000 + "\n"

READERS: dict[str, tuple[str, Callable[[Path], Any], Any]] = {
    "addresses": (LOCK_FILE, lambda path: ui_record(path.parent), {}),
    "record of predictions": (RUN_FILE, lambda path: _record(path.parent), {}),
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_ours_counts_as_not_written(tmp_path: Path, name: str) -> None:
    file, read, nothing = READERS[name]
    (tmp_path / file).write_text(NESTED)
    assert read(tmp_path / file) == nothing


def test_an_export_of_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(NESTED)
    with pytest.raises(CorruptArtifact, match="export"):
        load_exported(tmp_path)


def test_numbers_that_no_type_holds_are_typed_errors(tmp_path: Path) -> None:
    towers = '"vision_cfg": {}, "text_cfg": {}'
    (tmp_path / CONFIG_FILE).write_text(
        f'{{"model_cfg": {{"embed_dim": 1e999, {towers}}}, "preprocess_cfg": {{}}}}'
    )
    with pytest.raises(InputError, match="open_clip"):
        read_config(tmp_path)
