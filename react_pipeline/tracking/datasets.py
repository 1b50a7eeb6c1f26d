"""Data sets of MLflow: the sets of pairs and of labelled images that a run was made of, or is.

Does not belong here: what was measured on them (`log`, `models`).
"""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from react_pipeline.project import Project
from react_pipeline.stage import CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS, STAGES, domain_and_method
from react_pipeline.store import Artifact, ReactError

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import DatasetInput

TABLES = ("pairs.parquet", "images.parquet")
"""The file of a set that has a row a sample."""
SCHEMA_ROWS = 100
"""Rows that MLflow infers the schema from: a set may have millions."""


def dataset_inputs(project: Project, artifact: Artifact) -> list[DatasetInput]:
    """Return the sets behind an artifact, each with its schema, profile, source and context."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    domain, _ = domain_and_method(artifact.key)
    inputs = []
    for stage, fingerprint in {**artifact.parents, artifact.stage: artifact.fingerprint}.items():
        row = STAGES.get(stage)
        if row is None or row.scope != "domain" or row.gathers:
            continue
        source = f"{project.store.address(stage, domain)}/{fingerprint}"
        source = source if "://" in source else Path(source).as_uri()
        described = _describe(project, stage, domain, fingerprint, source)
        context = [InputTag("mlflow.data.context", use) for use in _uses(stage)]
        inputs.append(DatasetInput(Dataset(**described), context))
    return inputs


def _describe(
    project: Project, stage: str, domain: str, fingerprint: str, source: str
) -> dict[str, str]:
    import pandas as pd
    from mlflow.data.pandas_dataset import from_pandas

    rows, head = 0, pd.DataFrame()
    with suppress(ReactError):  # pruned: what is left of it is its name
        rows, head = _sample(project.store.open(stage, domain, fingerprint))
    # Its warnings are hints for tables that a model is served with.
    with warnings.catch_warnings(action="ignore"):
        name = f"{stage}-{domain}"
        described = from_pandas(head, source, name=name, digest=fingerprint).to_dict()
    profile = {"num_rows": rows, "num_elements": rows * len(head.columns)}
    return {**described, "profile": json.dumps(profile)}


def _sample(artifact: Artifact) -> tuple[int, pd.DataFrame]:
    """Return how many rows a set has, and the first ones."""
    import pandas as pd
    import pyarrow.parquet as pq

    for name in TABLES:
        if name in artifact.files:
            with pq.ParquetFile(artifact.file(name)) as file:
                first = next(file.iter_batches(SCHEMA_ROWS), None)
                head = pd.DataFrame() if first is None else first.to_pandas()
                return file.metadata.num_rows, head
    return 0, pd.DataFrame()


def _uses(stage: str) -> list[str]:
    """Return what a set is for, as MLflow calls it: training or evaluation."""
    readers = {"training": CUSTOMIZED_CHECKPOINT, "evaluation": DOMAIN_RESULTS}
    return [use for use, reader in readers.items() if stage in STAGES[reader].parents]
