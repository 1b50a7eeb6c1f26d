"""Spreading work, as far as no cluster is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.project.spread import require_shared
from react_pipeline.store.errors import InputError


def test_a_store_that_a_machine_cannot_see_is_reported(tmp_path: Path) -> None:
    require_shared(tmp_path)
    with pytest.raises(InputError, match="share"):
        require_shared(tmp_path / "elsewhere")
