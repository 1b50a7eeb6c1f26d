"""FAULTS 52: passwords in addresses are refused in files, taken from the environment, and never
repeated.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.tracking import tracking_at

from react_pipeline.extensions.cluster.assets import torchrun_command
from react_pipeline.extensions.plan.diagnosis import diagnose
from react_pipeline.project.project import Project
from react_pipeline.settings.addresses import has_secret, without_secrets
from react_pipeline.settings.files import TRACKING_VARIABLE, load_pipeline
from react_pipeline.store.errors import ConfigError
from react_pipeline.tracking.notes import MLFLOW_VARIABLE, mlflow_url, short_reason
from react_pipeline.tracking.runs import Runs

SECRET = "planted-5ecret"  # noqa: S105 - of a test
DATABASE = f"postgresql://react:{SECRET}@db.example:5432/mlflow"


@pytest.mark.parametrize(
    "address",
    [
        DATABASE,
        f"https://react:{SECRET}@mlflow.example/",
        f"https://{SECRET}@mlflow.example",
        f"postgresql://db.example/mlflow?user=react&password={SECRET}",
        f"mssql+pyodbc://db/x?PWD={SECRET}",
        f"https://host/path?X-Amz-Signature={SECRET}",
        f"http:/react:{SECRET}@mlflow.example",
        f"https://host/path?auth={SECRET}",
        f"//react:{SECRET}@mlflow.example",
    ],
)
def test_a_secret_in_an_address_is_left_out_of_text(address: str) -> None:
    assert has_secret(address)
    assert SECRET not in without_secrets(f"cannot reach '{address}' now")
    assert "now" in without_secrets(f"cannot reach '{address}' now")


@pytest.mark.parametrize(
    "address",
    [
        "sqlite:////home/a@b/mlflow.db",
        "http://mlflow:5000",
        "postgresql://db/mlflow?sslmode=require",
        "",
    ],
)
def test_plain_addresses_stay_as_they_are(address: str) -> None:
    assert not has_secret(address) and without_secrets(address) == address


@pytest.mark.parametrize("field", ["tracking_uri", "dagster_url", "mlflow_url"])
@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_file_with_a_password_is_refused_without_echo(
    make_project: Callable[..., Project], field: str, scheme: str
) -> None:
    with pytest.raises(ConfigError, match=field) as refused:
        make_project(**{field: f"{scheme}://react:{SECRET}@host"})
    assert SECRET not in str(refused.value)


def test_the_environment_names_a_database_and_no_server(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, DATABASE)
    assert load_pipeline(tiny_project.path).tracking_uri == DATABASE
    monkeypatch.setenv(TRACKING_VARIABLE, f"http://react:{SECRET}@host")
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_PASSWORD") as refused:
        load_pipeline(tiny_project.path)
    assert SECRET not in str(refused.value)


def test_neither_doctor_logs_arguments_nor_links_hold_it(
    tiny_project: Project,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv(TRACKING_VARIABLE, DATABASE)
    monkeypatch.setenv(MLFLOW_VARIABLE, f"https://react:{SECRET}@mlflow.example")
    found = {entry.what: f"{entry.detail} {entry.remedy}" for entry in diagnose(tiny_project.path)}
    assert "…@db.example" in found["tracking"]

    def fail(_: Runs) -> None:
        raise OSError(f"no answer from {DATABASE}")

    monkeypatch.setattr(Runs, "connect", fail)
    assert tracking_at(tiny_project, DATABASE).sync() is None
    arguments = torchrun_command(2, ["--config", str(tiny_project.path)])
    shown = [
        *found.values(),
        caplog.text,
        short_reason(OSError(DATABASE)),
        *arguments,
        mlflow_url(None, DATABASE),
    ]
    assert "…@db.example" in caplog.text and not [text for text in shown if SECRET in text]
