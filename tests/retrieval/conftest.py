from __future__ import annotations

import pytest

from react_pipeline.labelled import publish_evaluation_set
from react_pipeline.project import Project


@pytest.fixture
def project(indexed_project: Project) -> Project:
    """A project whose corpus is indexed, with the evaluation set of `shapes`."""
    publish_evaluation_set(indexed_project, "shapes")
    return indexed_project
