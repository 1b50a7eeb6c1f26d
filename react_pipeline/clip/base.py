"""The base checkpoint: the CLIP named in the configuration, published once in safetensors form.

Belongs here: publishing and its identity. Does not belong here: how weights are read (`model`) or how the demo's model
is made (`demo.base`).
"""

from pathlib import Path
from typing import Any

from react_pipeline.clip.hub import fetched
from react_pipeline.demo import installed_versions
from react_pipeline.lineage import resolve
from react_pipeline.project import Project
from react_pipeline.settings import EncoderConfig
from react_pipeline.store import Artifact, sha256_of


def publish_base(project: Project) -> Artifact:
    """Publish the encoder of the configuration as the artifact `base_checkpoint`.

    Raises:
        InputError: If the architecture, tag or checkpoint cannot be used, or the Hub does not have it.
    """
    with fetched(project.config.encoder) as encoder:
        return _publish(project, encoder)


def _publish(project: Project, encoder: EncoderConfig) -> Artifact:
    inputs = resolve(project, "base_checkpoint", content=_digests(encoder))

    def write(staging: Path) -> dict[str, Any]:
        from react_pipeline.clip.model import from_parts, save
        from react_pipeline.clip.pretrained import from_open_clip

        if encoder.model == "demo":
            from react_pipeline.demo import build_base

            clip = from_parts(*build_base())
        else:
            clip = from_open_clip(encoder)
        save(clip, staging)
        parameters = sum(parameter.numel() for parameter in clip.model.parameters())
        return {"parameters": parameters, "dimension": clip.dimension, "image_size": clip.preprocess_cfg["size"]}

    return project.store.build(inputs, write)


def _digests(encoder: EncoderConfig) -> Any:
    """Identity of a local checkpoint: the digests of its files; of the demo's: the versions it is made from."""
    if encoder.model == "demo":
        return installed_versions()
    path = Path(encoder.pretrained or "")
    if not encoder.pretrained or not path.exists():
        return None
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return {file.relative_to(path).as_posix() if path.is_dir() else "": sha256_of(file) for file in files}
