"""The CLIPs named in the configuration, to customize and to retrieve with, published once in
safetensors form.

Belongs here: its identity, fetching from the Hub. Does not belong here: reading weights
(`pretrained`).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import HUB_PREFIX, EncoderConfig, encoders
from react_pipeline.store import Artifact, InputError, Scratch, read_json_bounded, sha256_of

_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_TOKENIZER = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges*",
    "*.model",
)


def publish_base(project: Project) -> Artifact:
    """Publish the encoder of the configuration as the artifact `base_checkpoint`.

    Raises:
        InputError: If the architecture, tag or checkpoint cannot be used, or the Hub does not have
            it.
    """
    return _publish(project, "base_checkpoint", project.config.encoder)


def publish_retrieval(project: Project) -> Artifact:
    """Publish the encoder that retrieves as the artifact `retrieval_checkpoint`; errors as of
    `publish_base`.
    """
    try:
        return _publish(project, "retrieval_checkpoint", project.config.retrieves_with)
    except InputError as error:
        raise InputError(f"retrieval_encoder: {error}") from error


def _publish(project: Project, stage: str, config: EncoderConfig) -> Artifact:
    with fetched(config) as encoder:

        def write(staging: Path, _: Scratch) -> dict[str, Any]:
            from react_pipeline.clip.model import from_parts, save
            from react_pipeline.clip.pretrained import from_open_clip

            built = encoders().get(encoder.model)
            clip = from_parts(*built.build()) if built else from_open_clip(encoder)
            save(clip, staging)
            parameters = sum(parameter.numel() for parameter in clip.model.parameters())
            return {
                "parameters": parameters,
                "dimension": clip.dimension,
                "image_size": clip.preprocess_cfg["size"],
            }

        return project.store.build(resolve(project, stage, content=_digests(encoder)), write)


def _digests(encoder: EncoderConfig) -> Any:
    """Identity of a local checkpoint: the digests of its files; of a built encoder: the versions it
    is made from.
    """
    if built := encoders().get(encoder.model):
        return built.packages()
    path = Path(encoder.pretrained or "")
    if not encoder.pretrained or not path.exists():
        return None
    files = sorted(file for file in (path, *path.rglob("*")) if file.is_file())
    return {file.relative_to(path).as_posix(): sha256_of(file) for file in files}


@contextmanager
def fetched(encoder: EncoderConfig) -> Iterator[EncoderConfig]:
    """Yield the encoder with a model of the Hub replaced by a folder that lasts as long as the
    context.

    Of a text tower that the model names by another place of the Hub its `config.json` is fetched,
    and nothing else.

    Raises:
        InputError: If the model is neither on the Hub nor in its cache.
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
                f"encoder.pretrained: {name} cannot be fetched from the Hub: {error}; connect this "
                "machine, or give the path of a folder with its files"
            ) from error
        yield encoder.model_copy(update={"pretrained": directory})


def _fetch(repository: str, revision: str | None, folder: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download

    def get(*patterns: str) -> Path:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))

    snapshot = get(_CONFIG, _WEIGHTS, "config.json", *_TOKENIZER)
    if not (snapshot / _WEIGHTS).is_file():
        snapshot = get("open_clip_pytorch_model.bin")
    files = {path.name: path for path in snapshot.iterdir() if path.is_file()}
    text_cfg = read_json_bounded(files[_CONFIG])["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg and "config.json" not in files:
        files["config.json"] = Path(hf_hub_download(text_cfg["hf_model_name"], "config.json"))
    for name, path in files.items():
        (folder / name).symlink_to(path.resolve())
