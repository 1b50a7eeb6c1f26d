"""The CLIPs named in the configuration, to customize and to retrieve with: made of a folder, a
checkpoint file, a place of the Hub or a tag of open_clip, and published once in safetensors form.

open_clip is imported only for names that are its own, as it takes seconds. Does not belong here:
our own checkpoints (`model`).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from react_pipeline.clip.architecture import (
    CONFIG_FILE,
    FOREIGN_WEIGHTS_FILE,
    GATED_PREFIX,
    WEIGHTS_FILE,
    find_weights,
    read_config,
)
from react_pipeline.lineage import resolve
from react_pipeline.project import Project, absence
from react_pipeline.settings import HUB_PREFIX, EncoderConfig, did_you_mean
from react_pipeline.store import Artifact, InputError, Scratch, read_json_bounded, sha256_of

if TYPE_CHECKING:
    from react_pipeline.clip.model import Clip

logger = logging.getLogger(__name__)

_PREPARED = ("mean", "std", "resize_mode")
"""How images are prepared: fields of the configuration and of open_clip's `preprocess_cfg` alike.
"""
_RECORDED = ("model", "quick_gelu", *_PREPARED)
"""Fields that a checkpoint folder records itself."""
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
            from react_pipeline.extensions.demo import build_base

            parts = build_base() if encoder.is_demo else None
            clip = from_parts(*parts) if parts else from_open_clip(encoder)
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
    if encoder.is_demo:
        from react_pipeline.extensions.demo import installed_versions

        return installed_versions()
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

    snapshot = get(CONFIG_FILE, WEIGHTS_FILE, "config.json", *_TOKENIZER)
    if not (snapshot / WEIGHTS_FILE).is_file():
        snapshot = get(FOREIGN_WEIGHTS_FILE)
    files = {path.name: path for path in snapshot.iterdir() if path.is_file()}
    text_cfg = read_json_bounded(files[CONFIG_FILE])["model_cfg"]["text_cfg"]
    if "hf_model_name" in text_cfg and "config.json" not in files:
        files["config.json"] = Path(hf_hub_download(text_cfg["hf_model_name"], "config.json"))
    for name, path in files.items():
        (folder / name).symlink_to(path.resolve())


def require_available(encoder: EncoderConfig, section: str = "encoder") -> None:
    """Refuse names that open_clip does not know, and weights that are not there; nothing is read or
    fetched, and the Hub is not asked.

    Raises:
        InputError: Naming the field of the section, and the nearest names.
    """
    if encoder.is_demo:
        _digests(encoder)
        return
    weights = str(encoder.pretrained)
    path = Path(weights)
    if weights.startswith(HUB_PREFIX):
        return
    import open_clip

    if path.is_dir():
        read_config(path)
        find_weights(path)
        configured = encoder.model_dump(exclude_unset=True, exclude_none=True)
        if idle := [field for field in _RECORDED if field in configured]:
            raise InputError(
                f"{section}.{idle[0]}: {path} records its own architecture, activation and "
                f"normalisation; remove {', '.join(idle)}"
            )
        return
    name = encoder.model.removeprefix(GATED_PREFIX)
    if open_clip.get_model_config(name) is None:
        meant = did_you_mean(name, open_clip.list_models(), "`open_clip.list_models()` lists them")
        raise InputError(f"{section}.model: open_clip knows no {name!r}; {meant}")
    if path.is_file() or open_clip.get_pretrained_cfg(name, weights):
        return
    if path.is_absolute():
        raise InputError(f"{section}.pretrained: {absence(path)}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    meant = did_you_mean(weights, tags, f"its tags are {', '.join(tags[:5]) or 'none'}")
    raise InputError(
        f"{section}.pretrained: {weights!r} is no tag of {name}, and no file or folder beside "
        f"pipeline.yaml; {meant}"
    )


def from_open_clip(encoder: EncoderConfig, device: str = "cpu") -> Clip:
    """Load what `encoder` names: a folder in open_clip's form, a checkpoint file, or a pretrained
    tag of open_clip.

    A state dict may be bare or under `state_dict`, with or without `module.` prefixes; gated blocks
    in it are found by their names, so REACT's released checkpoints load strictly. A folder records
    architecture, activation and normalisation itself; they must not be configured in addition.

    Raises:
        InputError: If the architecture or tag is unknown, the file unreadable, or the weights do
            not fit; if what a folder records is configured.
    """
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    from react_pipeline.clip.gated import gated_layers
    from react_pipeline.clip.model import load, load_weights

    require_available(encoder)
    path = Path(str(encoder.pretrained))
    if path.is_dir():
        return load(path, device)
    name = encoder.model.removeprefix(GATED_PREFIX)
    model_cfg = open_clip.get_model_config(name)
    prepared = tag_cfg = open_clip.get_pretrained_cfg(name, encoder.pretrained)
    said = encoder.model_dump(include={"quick_gelu", *_PREPARED}, exclude_none=True)
    if path.is_file():
        if not said.keys() >= {"quick_gelu", "mean", "std"}:
            logger.warning(
                f"{path}: a checkpoint file does not record its activation and normalisation; "
                f"{name}'s usual ones are assumed. Set encoder.quick_gelu, mean and std if that is "
                "wrong"
            )
        for tag in open_clip.list_pretrained_tags_by_model(name)[:1]:
            prepared = open_clip.get_pretrained_cfg(name, tag)
    else:
        try:
            path = Path(open_clip.download_pretrained(tag_cfg))
        except Exception as error:
            raise InputError(
                f"encoder.pretrained: {name}/{encoder.pretrained} cannot be fetched: {error}; "
                "connect this machine, or give the path of a local checkpoint"
            ) from error
    preprocess_cfg = merge_preprocess_dict(asdict(PreprocessCfg()), {**prepared, **said})
    quick_gelu = {**tag_cfg, **said}.get("quick_gelu")
    if quick_gelu is not None:
        model_cfg["quick_gelu"] = quick_gelu
    clip = load_weights(model_cfg, preprocess_cfg, path, None, device)
    if encoder.model.startswith(GATED_PREFIX) and not gated_layers(clip.model):
        raise InputError(
            f"{path}: holds no gated blocks, and encoder.model is {encoder.model!r}; use {name!r}"
        )
    return clip
