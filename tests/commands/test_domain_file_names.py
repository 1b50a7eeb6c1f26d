"""Names of domain files: which are refused or not read."""

from __future__ import annotations

from functools import partial

import dagster as dg
import pytest
from support.commands import call_in_words

from react_pipeline.assets.domain_files import domain_files
from react_pipeline.assets.resources import ProjectResource
from react_pipeline.extensions.plan.diagnosis import diagnose
from react_pipeline.project.project import Project
from react_pipeline.settings.config import RESERVED_SLUGS, DomainConfig
from react_pipeline.settings.files import load_domains
from react_pipeline.store.errors import InputError


@pytest.fixture
def run(tiny_project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tiny_project.path.parent)
    return partial(call_in_words, capsys)


def test_a_name_that_means_something_else_is_refused() -> None:
    assert "overview" in RESERVED_SLUGS  # the folder of a report
    for slug in RESERVED_SLUGS:
        with pytest.raises(ValueError, match="another name"):
            DomainConfig(slug=slug, classes=("cat",))


def test_a_domain_file_with_another_ending_is_always_reported(tiny_project: Project, run) -> None:
    path = tiny_project.config.domains / "birds.YAML"
    path.write_text("classes: [owl]\n")
    reported = f"{path}: is not read: rename it to birds.yaml"
    found, problems = load_domains(tiny_project.config.domains)
    assert set(found) == {"colours", "shapes"} and list(map(str, problems)) == [reported]
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance)
        (sensor,) = domain_files(ProjectResource(config_path=str(tiny_project.path)), [])
        tick = sensor(context)
        assert reported in tick.skip_reason.skip_message
    assert reported in [finding.detail for finding in diagnose(tiny_project.path)]
    code, _, error = run("domains", "validate")
    assert code == 2 and reported in error
    code, out, _ = run("status")
    assert code == 0 and "birds.yaml" in out


def test_a_file_whose_name_is_no_slug_is_reported_with_the_rule(tiny_project: Project, run) -> None:
    (tiny_project.config.domains / "Bad Name.yaml").write_text("classes: [owl]\n")
    with pytest.raises(InputError, match=r"'Bad Name'.*a-z, 0-9 and '-', 63 .* rename"):
        tiny_project.domain("Bad Name")
    with pytest.raises(InputError, match=r"'\.\./x'"):
        tiny_project.domain("../x")
    _, out, _ = run("status")
    assert "Bad Name not readable" in out and "rename the file" in out
