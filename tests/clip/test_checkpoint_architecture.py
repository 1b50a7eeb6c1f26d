"""A checkpoint folder tells what it is: what it records must not be configured, and a card says
what the folder says.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from react_pipeline.clip import from_open_clip, load
from react_pipeline.clip.architecture import text_folder
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError


@pytest.mark.parametrize(
    "given",
    [{"quick_gelu": False}, {"model": "ViT-L-14", "quick_gelu": True, "std": (1, 1, 1)}],
    ids="-".join,
)
def test_what_a_folder_records_must_not_be_configured(named: Path, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="records its own") as error:
        from_open_clip(EncoderConfig(pretrained=str(named), **given))
    assert all(word in str(error.value) for word in (str(named), *given))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("", []),
        ("preprocess_cfg", None),
        *(("model_cfg.added", [{"method": a, "record": b}]) for a, b in (("a", []), (1, {}))),
        *(("model_cfg.vision_cfg.react_cfg", one)
          for one in (7, {"enabled": True}, {"enabled": True, "last_k_layers": "all"})),
    ],
)  # fmt: skip
def test_a_broken_configuration_is_refused_with_its_folder(
    tiny_checkpoint: Path, tmp_path: Path, place: str, value: Any
) -> None:
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    *parents, name = place.split(".")
    functools.reduce(dict.__getitem__, parents, config)[name] = value
    file.write_text(json.dumps(config if place else value))
    with pytest.raises(InputError, match=re.escape(str(folder))):
        load(folder)


def test_no_pipe_is_read_as_a_part_of_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    assert text_folder(tmp_path, "field", ("tokenizer.json",)) == tmp_path
    os.mkfifo(tmp_path / "special_tokens_map.json")
    with pytest.raises(InputError, match="special_tokens_map"):
        text_folder(tmp_path, "field", ("tokenizer.json",))
