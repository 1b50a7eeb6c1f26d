"""A checkpoint folder tells what it is: what it records must not be configured, and a card says
what the folder says.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import open_clip
import pytest

from react_pipeline.clip.architecture import read_config, text_folder
from react_pipeline.clip.base import from_open_clip
from react_pipeline.clip.model import from_parts
from react_pipeline.settings.config import EncoderConfig
from react_pipeline.store.errors import InputError

HALF = (0.5, 0.5, 0.5)


@pytest.fixture
def named(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model that open_clip knows as `tiny`."""
    model_cfg, _ = read_config(tiny_checkpoint)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", model_cfg)
    return tiny_checkpoint


@pytest.mark.parametrize(
    "given",
    [
        {"model": "ViT-L-14"},
        {"model": "tiny"},
        {"quick_gelu": False},
        {"mean": HALF},
        {"model": "ViT-L-14", "quick_gelu": True, "std": (1, 1, 1)},
    ],
    ids="-".join,
)
def test_what_a_folder_records_must_not_be_configured(named: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="records its own") as error:
        from_open_clip(EncoderConfig(pretrained=str(named), **given))
    assert all(word in str(error.value) for word in (str(named), *given))


@pytest.mark.parametrize(
    "content", ["[]", '{"model_cfg": {"embed_dim": 8}, "preprocess_cfg": {}}', "{"]
)
def test_a_folder_with_another_files_content_is_no_checkpoint(tmp_path: Path, content: str) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(InputError, match=r"open_clip_config\.json"):
        from_open_clip(EncoderConfig(pretrained=str(tmp_path)))


@pytest.mark.parametrize("entry", [{"method": "a", "record": []}, {"method": 1, "record": {}}])
def test_modules_without_method_and_record_are_refused(
    named: Path, tmp_path: Path, entry: dict[str, Any]
) -> None:
    config = json.loads((named / "open_clip_config.json").read_text())
    config["model_cfg"]["added"] = [entry]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="cannot build"):
        from_parts(None, *read_config(tmp_path))


def test_no_pipe_is_read_as_a_part_of_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert text_folder(tmp_path, "field", ("tokenizer.json",)) == tmp_path
    os.mkfifo(tmp_path / "special_tokens_map.json")
    with pytest.raises(InputError, match="special_tokens_map"):
        text_folder(tmp_path, "field", ("tokenizer.json",))
