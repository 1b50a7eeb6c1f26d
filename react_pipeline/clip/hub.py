"""Models of the Hugging Face Hub in open_clip's form, fetched as a folder.

Belongs here: which files are fetched. Does not belong here: what of them is read and trusted (`model`, `trust`).
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from react_pipeline.settings import HUB_PREFIX, EncoderConfig
from react_pipeline.store import InputError

_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_TOKENIZER = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model")


@contextmanager
def fetched(encoder: EncoderConfig) -> Iterator[EncoderConfig]:
    """The encoder with a model of the Hub replaced by a folder that lasts as long as the context.

    The Hub's own cache is used, and without a network only it. Of a text tower that the model names by another place of
    the Hub its `config.json` is fetched, and nothing else.

    Raises:
        InputError: If the model is neither on the Hub nor in the cache.
    """
    name = str(encoder.pretrained)
    if not name.startswith(HUB_PREFIX):
        yield encoder
        return
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    with tempfile.TemporaryDirectory(prefix="react-hub-") as directory:
        try:
            _fetch(repository, revision or None, Path(directory))
        except Exception as error:  # of the Hub, the network, the disk
            raise InputError(
                f"encoder.pretrained: {name} cannot be fetched from the Hub ({error}); give the path of a folder with "
                "its files instead"
            ) from error
        yield encoder.model_copy(update={"pretrained": directory})


def _fetch(repository: str, revision: str | None, folder: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    def get(*patterns: str) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))

    snapshot = get(_CONFIG, _WEIGHTS, "config.json", *_TOKENIZER)
    if not (snapshot / _WEIGHTS).is_file():
        snapshot = get("open_clip_pytorch_model.bin")
    for path in snapshot.iterdir():
        if path.is_file():
            (folder / path.name).symlink_to(path.resolve())
    text_tower = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))["model_cfg"]["text_cfg"].get(
        "hf_model_name"
    )
    if text_tower and not (folder / "config.json").is_file():
        (folder / "config.json").symlink_to(Path(hf_hub_download(text_tower, "config.json")).resolve())
