"""Checkpoints as a training leaves them, with random changes in place of one: made in
milliseconds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from react_pipeline.clip.gated import add_gated_blocks, gated_layers
from react_pipeline.clip.model import load, save
from react_pipeline.lineage import resolve
from react_pipeline.project.project import Project
from react_pipeline.settings.methods import METHODS
from react_pipeline.store.artifacts import Artifact

COUNTS = {"trainable_parameters": 1_234, "parameters": 56_789, "pairs": 7, "seconds": 1.0}


def customized(project: Project, method: str) -> Artifact:
    """A checkpoint as `customize` leaves it, with random changes in place of a training."""
    inputs = resolve(project, "customized_checkpoint", f"shapes/{method}")

    def write(directory: Path, _: object) -> dict[str, Any]:
        clip = load(inputs.parents["base_checkpoint"].path)
        torch.manual_seed(0)
        if not METHODS[method].has_model:
            vectors = nn.functional.normalize(torch.randn(clip.dimension, 4), dim=0)
            biases = {"bias": 9 * torch.eye(4)[1]} if method.startswith("gda") else {}
            save_file({"head": vectors, **biases}, directory / "head.safetensors")
            about = {"classes": project.domain("shapes").class_names}
            (directory / "head.json").write_text(json.dumps(about))
            return COUNTS
        if method.startswith("gated-image"):
            add_gated_blocks(clip.model, 2)
            for block in gated_layers(clip.model).values():
                nn.init.constant_(block.alpha_attn, 0.7)
                nn.init.constant_(block.alpha_dense, -0.7)
        else:
            for parameter in clip.model.visual.parameters():
                nn.init.normal_(parameter, std=0.3)
        save(clip, directory)
        (directory / "metrics.jsonl").write_text('{"step": 0}\n')
        return COUNTS

    return project.store.build(inputs, write)
