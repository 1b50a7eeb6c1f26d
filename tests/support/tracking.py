"""Artifacts to log, and what MLflow shows of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from react_pipeline.project.project import Project
from react_pipeline.store.artifacts import Artifact, Inputs
from react_pipeline.tracking.log import Tracking

STEPS = 5


def artifact_of(
    project: Project, stage: str, key: str, *, parents: Any = None, seed: int = 0
) -> Artifact:
    """A published artifact of a stage, as that stage's step would leave it in the eyes of
    tracking.
    """

    def write(directory: Path, _: object) -> dict[str, Any]:
        (directory / "table.csv").write_text("a,b\n1,2\n")
        if stage == "customized_checkpoint":
            lines = [
                {"step": step, "loss": 1 / (1 + step), "gate_attn_0": 0.1 * step}
                for step in range(STEPS)
            ]
            (directory / "metrics.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in lines)
            )
            (directory / "open_clip_model.safetensors").write_bytes(b"weights")
        return {"pairs": 7, "device": "cpu", "seconds": 1.5, "dropped": {"cap": 2}}

    config = {"seed": seed, "training": {"steps": STEPS, "modes": ["t2t", "t2i"]}}
    return project.store.build(Inputs(stage, key, config, parents or {}, "1"), write)


def tracking_at(project: Project, uri: str) -> Tracking:
    """The tracking of a project at another address."""
    config = project.config.model_copy(update={"tracking_uri": uri})
    return Tracking(replace(project, config=config))


def runs_of(tracking: Tracking, **tags: str) -> list[Any]:
    """The runs that carry all these tags."""
    client = MlflowClient(tracking.uri)
    experiment = client.get_experiment_by_name(tracking.project.config.project)
    query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    return list(client.search_runs([experiment.experiment_id], query)) if experiment else []
