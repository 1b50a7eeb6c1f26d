"""What cannot work is refused before anything is built, by every command that could say so."""

from __future__ import annotations

import pytest
import yaml
from support.launch import dagster_home
from support.upkeep import edit

from react_pipeline.assets.launch import materialize
from react_pipeline.commands.cli import main
from react_pipeline.extensions.plan.diagnosis import diagnose
from react_pipeline.preflight import domain_problems, encoder_problems
from react_pipeline.project.project import Project
from react_pipeline.store.errors import ConfigError

ENCODERS = {
    "{model: ViT-B32, pretrained: openai}": "did you mean ViT-B-32",
    "{model: ViT-B-32, pretrained: opanai}": "did you mean openai?",
    "{model: ViT-B-32, pretrained: wieghts.pt}": "did you mean weights.pt?",
    "{model: ViT-B-32, pretrained: nosuch/weights.pt}": "there is no file or folder",
    "{pretrained: empty}": "open_clip_config.json",
    "{model: 'local-dir:empty'}": "open_clip_config.json",
}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_wrong_encoder_is_named_with_what_may_be_meant(
    tiny_project: Project, encoder: str
) -> None:
    folder = tiny_project.path.parent
    (folder / "weights.pt").touch()
    (folder / "empty").mkdir()
    assert not encoder_problems(tiny_project)
    edit(tiny_project.path, encoder=yaml.safe_load(encoder))
    (problem,) = encoder_problems(Project.load(tiny_project.path))
    assert problem.file == tiny_project.path and "encoder" in str(problem)
    assert ENCODERS[encoder] in problem.message


DOMAINS = {
    "classes: [circle]": "classes: has a single class",
    "evaluation: {name: a, kind: folder, path: imgs}": "evaluation.path: there is no file or",
    "evaluation: {name: a, kind: manifest, path: imgs.csv}": "evaluation.path: there is no file",
    "classes: [circle, {name: square, seeds: [a.png]}]": "classes.1.seeds: there is no file",
}


@pytest.mark.parametrize("fields", DOMAINS)
def test_a_domain_that_cannot_work_is_named_with_its_field(
    tiny_project: Project, fields: str
) -> None:
    assert not domain_problems(tiny_project, "shapes")
    edit(tiny_project.config.domains / "shapes.yaml", **yaml.safe_load(fields))
    (problem,) = domain_problems(tiny_project, "shapes")
    assert f"shapes.yaml: {DOMAINS[fields]}" in str(problem)


def test_all_commands_refuse_them_before_anything_is_built(
    tiny_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(tiny_project.config.domains / "shapes.yaml", classes=["circle"])
    edit(tiny_project.path, encoder={"model": "ViT-B32", "pretrained": "openai"})
    with pytest.raises(SystemExit) as stop:
        main(["domains", "validate", "--config", str(tiny_project.path)])
    reported = capsys.readouterr().err
    assert (
        stop.value.code == 2 and "single class" in reported and "did you mean ViT-B-32" in reported
    )
    missing = " ".join(
        finding.detail for finding in diagnose(tiny_project.path) if finding.state == "missing"
    )
    assert "single class" in missing and "did you mean ViT-B-32" in missing
    with pytest.raises(ConfigError, match="single class"):
        materialize("*", ["shapes"], (), tiny_project.path)
    with pytest.raises(ConfigError, match="ViT-B-32"):
        materialize("*", (), (), tiny_project.path)
    assert not list(tiny_project.config.store.glob("*/**/current"))


def test_domain_problems_only_warn_where_no_domain_is_selected(
    tiny_project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    for path in tiny_project.config.domains.glob("*.yaml"):
        edit(path, classes=["circle"])
    with dagster_home(tiny_project.path.parent / "home"):
        assert materialize("corpus", (), (), tiny_project.path).built == 1
    assert "single class" in caplog.text
    for domains in ((), ("shapes",)):
        with pytest.raises(ConfigError, match="single class"):
            materialize("evaluation_set", domains, (), tiny_project.path)


def test_materialize_refuses_first_what_lacks_files_or_packages(
    tiny_project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from react_pipeline.embedding import embed

    monkeypatch.setattr(embed, "find_spec", lambda _: None)
    edit(tiny_project.path, corpus={"kind": "images", "images": ["dtaa"]})
    with pytest.raises(SystemExit) as stop:
        main(["materialize", "--config", str(tiny_project.path)])
    reported = capsys.readouterr().err
    assert stop.value.code == 2 and "dtaa" in reported and "--no-deps clip-retrieval" in reported
    assert not list(tiny_project.store.places())
