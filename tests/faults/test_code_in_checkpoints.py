"""A checkpoint that somebody else wrote gets none of its code run: not by its tokenizer, its
towers, its weights.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from PIL import Image
from support.text_tower import write_text_tower_checkpoint
from support.trap import Trap
from transformers.utils import hub

from react_pipeline.clip import from_open_clip, load
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import InputError

CONFIG = "open_clip_config.json"
NEWER = int(version("transformers").split(".")[0]) >= 5
EVIL = """
from pathlib import Path
from transformers import BertConfig, BertModel, BertTokenizerFast
Path({marker!r}).touch()
class EvilConfig(BertConfig):
    model_type = "evil"
class EvilModel(BertModel):
    config_class = EvilConfig
class EvilTokenizer(BertTokenizerFast):
    pass
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What exists once evil code ran; whoever is asked on the terminal whether it may run
    says yes.
    """
    monkeypatch.setattr(builtins, "input", lambda _question="": "y")
    monkeypatch.setattr(
        "transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules")
    )
    return tmp_path / "code-was-run"


@pytest.fixture
def folder(tmp_path: Path, marker: Path) -> Path:
    """A checkpoint folder with a Python file beside its text tower that nothing names yet."""
    checkpoint = write_text_tower_checkpoint(tmp_path)
    (checkpoint / "text" / "evil.py").write_text(EVIL.format(marker=str(marker)))
    return checkpoint


def change(file: Path, part: str = "", **fields: Any) -> None:
    content = json.loads(file.read_text())
    within = content["model_cfg"][part] if part else content
    within.update(fields)
    for field in [field for field, value in within.items() if value is None]:
        del within[field]
    file.write_text(json.dumps(content))


def tokenizer_with_code(text: Path) -> None:
    places = {"AutoTokenizer": [None, "evil.EvilTokenizer"]}
    change(text / "tokenizer_config.json", tokenizer_class="EvilTokenizer", auto_map=places)


def trusted_tokenizer(folder: Path) -> None:
    tokenizer_with_code(folder / "text")
    trust = {"trust_remote_code": True}
    change(folder / CONFIG, "text_cfg", tokenizer_kwargs=trust, hf_model_name=None)


def tokenizer_of_another_kind(folder: Path) -> None:
    change(folder / CONFIG, "text_cfg", tokenizer_kwargs={"tokenizer_type": "bert"})


def asking_text_tower(folder: Path) -> None:
    places = {"AutoConfig": "evil.EvilConfig", "AutoModel": "evil.EvilModel"}
    change(folder / "text" / "config.json", model_type="evil", auto_map=places)


def asking_text_tower_in_another_file(folder: Path) -> None:
    asking_text_tower(folder)
    text = folder / "text"
    (text / "config.json").rename(text / "config.4.0.0.json")
    (text / "config.json").write_text(
        json.dumps({"configuration_files": ["config.4.0.0.json"], "model_type": "bert"})
    )


def text_tower_with_a_kernel(folder: Path) -> None:
    change(folder / "text" / "config.json", _attn_implementation="evil/kernel")


def elsewhere(folder: Path) -> None:
    (folder / "text").rename(folder.parent / "text")
    change(folder / CONFIG, "text_cfg", hf_model_name="../text", hf_tokenizer_name="../text")


def behind_a_link(folder: Path) -> None:
    (folder / "text").rename(folder.parent / "text")
    (folder / "text").symlink_to(folder.parent / "text")


def image_tower_of_the_hub(folder: Path) -> None:
    change(folder / CONFIG, "vision_cfg", timm_model_name="hf-hub:evil/tower")


EVILS: dict[Callable[[Path], None], tuple[str, str]] = {
    trusted_tokenizer: (CONFIG, "tokenizer_kwargs.trust_remote_code"),
    tokenizer_of_another_kind: (CONFIG, "tokenizer_kwargs.tokenizer_type"),
    asking_text_tower: ("text", "never run"),
    asking_text_tower_in_another_file: ("text", "never run"),
    text_tower_with_a_kernel: ("text", "_attn_implementation"),
    elsewhere: ("checkpoint", "text_cfg.hf_model_name"),
    behind_a_link: ("checkpoint", "text_cfg.hf_model_name"),
    image_tower_of_the_hub: (CONFIG, "vision_cfg.timm_model_name"),
}


@pytest.mark.parametrize("evil", EVILS, ids=lambda evil: evil.__name__)
def test_a_folder_that_names_code_or_other_places_is_refused(  # FAULTS 41
    folder: Path, marker: Path, evil: Callable[[Path], None]
) -> None:
    evil(folder)
    file, field = EVILS[evil]
    encoder = EncoderConfig(pretrained=str(folder))
    for opened in (lambda: load(folder), lambda: from_open_clip(encoder)):
        with pytest.raises(InputError) as refused:
            opened()
        assert file in str(refused.value)
        assert field in str(refused.value)
        assert not marker.exists()


@pytest.mark.parametrize("part", ["tokenizer", "text tower"])
def test_a_hub_name_gets_no_code_run_either(
    folder: Path, marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """An architecture of open_clip's list names a repository of the Hub, as `roberta-ViT-B-32`
    does.
    """
    (tokenizer_with_code if part == "tokenizer" else lambda text: asking_text_tower(text.parent))(
        folder / "text"
    )
    repository = tmp_path / "hub" / "models--evil--tower"
    (repository / "snapshots").mkdir(parents=True)
    (folder / "text").rename(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(
        hub, "TRANSFORMERS_CACHE", str(tmp_path / "hub"), raising=False
    )  # transformers 4
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", True, raising=False)
    model_cfg = json.loads((folder / CONFIG).read_text())["model_cfg"]
    model_cfg["text_cfg"] |= {"hf_tokenizer_name": "evil/tower", "hf_model_name": "evil/tower"}
    if part == "tokenizer":
        del model_cfg["text_cfg"]["hf_model_name"]
        model_cfg["text_cfg"] |= {"width": 32, "heads": 2, "layers": 1}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "evil", model_cfg)
    monkeypatch.setattr("react_pipeline.clip.model.load_strictly", lambda *_: None)
    weights = folder / "open_clip_model.safetensors"
    # transformers 5 reads such a tokenizer by a class of its own, transformers 4 refuses it.
    with (
        nullcontext() if part == "tokenizer" and NEWER else pytest.raises(InputError, match="code")
    ):
        from_open_clip(EncoderConfig(model="evil", pretrained=str(weights)))
    assert not marker.exists()


def test_weights_beside_a_text_tower_are_not_read(folder: Path, marker: Path) -> None:
    before = load(folder).encode_texts(["a red circle"])
    torch.save(Trap(marker), folder / "text" / "pytorch_model.bin")
    change(folder / CONFIG, "text_cfg", hf_model_pretrained=True)
    assert torch.equal(load(folder).encode_texts(["a red circle"]), before)
    assert not marker.exists()


def test_pickled_weights_of_a_folder_run_nothing(folder: Path, marker: Path) -> None:
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="open_clip_model.safetensors"):
        load(folder)
    torch.save({"state_dict": Trap(marker)}, folder / "open_clip_pytorch_model.bin")
    with pytest.raises(InputError, match="pickled models are refused"):
        load(folder)
    assert not marker.exists()


def test_options_that_open_clip_uses_itself_are_kept(folder: Path, marker: Path) -> None:
    change(
        folder / CONFIG, "text_cfg", tokenizer_kwargs={"strip_sep_token": True, "clean": "lower"}
    )
    clip = load(folder)
    assert 3 not in clip.tokenizer(["A RED circle"])  # [SEP]
    assert torch.equal(clip.tokenizer(["A RED circle"]), clip.tokenizer(["a red circle"]))
    assert clip.preprocess(Image.new("RGB", (40, 50))).shape == (3, 32, 32)
    assert not marker.exists()
