"""The user interfaces run over a Dagster home once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from react_pipeline.extensions.ui.servers import locked_for_ui, tell_addresses
from react_pipeline.project.template import ui_addresses
from react_pipeline.store.errors import InputError

ADDRESSES = {"dagster": "http://127.0.0.1:3100", "mlflow": "http://127.0.0.1:5100"}


def test_a_second_ui_over_a_home_is_refused_with_the_first(
    tmp_path: Path,
) -> None:
    with locked_for_ui(tmp_path) as lock:
        with pytest.raises(InputError, match="just starting"), locked_for_ui(tmp_path):
            pass
        tell_addresses(lock, ADDRESSES, [4321])
        tell_addresses(lock, ADDRESSES, [4321, 4322])
        assert ui_addresses(tmp_path) == ADDRESSES
        with pytest.raises(InputError) as refused, locked_for_ui(tmp_path):
            pass
        for word in (str(tmp_path), *ADDRESSES.values(), "kill 4321 4322"):
            assert word in str(refused.value)
        assert ui_addresses(tmp_path) == ADDRESSES  # the second one wrote nothing
    assert ui_addresses(tmp_path) == {}
    with locked_for_ui(tmp_path):
        pass


def test_home_stays_locked_until_dagster_of_killed_ui_has_ended(tmp_path: Path) -> None:
    with locked_for_ui(tmp_path) as lock:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(lock.fileno(),))
    try:
        with pytest.raises(InputError, match="runs already"), locked_for_ui(tmp_path):
            pass
    finally:
        orphan.kill()
        orphan.wait()
    with locked_for_ui(tmp_path):
        pass
