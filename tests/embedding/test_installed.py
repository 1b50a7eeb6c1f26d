from __future__ import annotations

from pathlib import Path

import pytest

from react_pipeline.embedding import installed
from react_pipeline.embedding.installed import INSTALL_CLIP_RETRIEVAL, require_clip_retrieval
from react_pipeline.store.errors import InputError

NO_DEPS = Path(__file__).parents[2] / "no-deps.txt"


@pytest.mark.parametrize("missing", ["clip_retrieval", "all_clip"])
def test_without_clip_retrieval_its_command_is_named(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_clip_retrieval()
    monkeypatch.setattr(installed, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(InputError, match="pip install --no-deps"):
        require_clip_retrieval()


def test_the_command_names_the_versions_that_make_install_takes() -> None:
    wanted = [line for line in NO_DEPS.read_text().splitlines() if not line.startswith("#")]
    assert sorted(wanted) == sorted(INSTALL_CLIP_RETRIEVAL.split()[3:])
