"""A new project is one that loads, in a folder where nothing is replaced; two of them do
not meet.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import yaml
from pydantic import Field
from support.ready import write_datacomp

from react_pipeline.commands.cli import main
from react_pipeline.corpus.corpus import publish_corpus
from react_pipeline.extensions.ui import servers
from react_pipeline.project.project import Project
from react_pipeline.project.template import prepare_home
from react_pipeline.settings.corpus import CorpusConfig, LocalNames
from react_pipeline.store.errors import InputError

REPOSITORY = Path(__file__).parents[2]
KINDS = {
    "webdataset": "webdataset",
    "images": "images",
    "urls": "urls",
    "datacomp": "embeddings",
    "embeddings": "embeddings",
    "demo": "demo",
}


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_HOME", "REACT_PIPELINE_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def init(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["init", *map(str, arguments)])
    return int(str(ended.value.code))


class Needing(CorpusConfig):
    """A kind of an extension, which writes no template of its own."""

    kind: Literal["needing"] = "needing"
    tables: LocalNames
    folder: Path = Field(examples=["data"])
    layout: Literal["flat", "deep"] = Field(examples=["flat"])
    share: float = Field(gt=0, lt=1, examples=[0.5])
    title: str = "none"


def test_the_template_of_a_kind_has_all_that_it_needs() -> None:
    fields = yaml.safe_load(Needing.template("needing"))
    assert fields.keys() == {"kind", "tables", "folder", "layout", "share"}
    assert Needing(**fields).layout == "flat"


@pytest.mark.parametrize("corpus", KINDS)
def test_a_new_project_loads(
    corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my 'birds': #1"
    assert init(folder, "--corpus", corpus) == 0
    written, _, steps = capsys.readouterr().out.partition("next:\n")
    assert len(written.splitlines()) == (7 if corpus == "demo" else 4)
    assert "react-pipeline materialize" in steps
    assert ("react-pipeline demo" in steps) == (corpus == "demo")
    project = Project.load(folder / "pipeline.yaml")
    assert project.config.corpus.kind == KINDS[corpus]
    if corpus != "demo":
        encoder = project.config.encoder
        assert (encoder.model, encoder.pretrained) == ("ViT-B-32", "openai")
        assert project.domain("birds").class_names[0] == "robin"
        gated = ["gated-image", "gated-image-control"]
        assert list(project.config.methods) == ["base", "gda", "gda-control", *gated]
    assert "max_concurrent_runs" in (folder / "dagster_home" / "dagster.yaml").read_text()
    assert (folder / ".gitignore").read_text().startswith(".react/")
    assert prepare_home(folder) == folder / "dagster_home"
    # Nothing of it is shared with another project.
    store = folder / ".react" / "store"
    assert project.config.store == store
    assert project.config.tracking_uri == f"sqlite:///{store.parent / 'mlflow.db'}"
    texts = [path.read_text() for path in folder.rglob("*") if path.is_file()]
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in texts)


def test_a_new_project_of_datacomp_reads_its_files(tmp_path: Path) -> None:
    assert init(tmp_path, "--corpus", "datacomp") == 0
    vectors = np.eye(6, 512, dtype=np.float16)
    urls = [f"http://127.0.0.1:9/{row}.png" for row in range(6)]
    write_datacomp(tmp_path / "metadata", vectors, [f"bird {row}" for row in range(6)], urls)
    project = Project.load(tmp_path / "pipeline.yaml")
    corpus = publish_corpus(project)
    assert (corpus.counts["pairs"], project.config.corpus.layout) == (6, "datacomp-b32")


def test_files_there_are_kept_and_no_project_is_made_twice(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine")
    assert init(tmp_path) == 0
    assert (tmp_path / ".gitignore").read_text() == "mine"
    (tmp_path / "pipeline.yaml").write_text("mine")
    assert init(tmp_path) == 2
    assert (tmp_path / "pipeline.yaml").read_text() == "mine"


def test_a_project_of_demo_kind_is_named_after_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "My Pets"
    assert init(folder, "--corpus", "demo") == 0
    steps = capsys.readouterr().out
    assert "react-pipeline demo " in steps
    project = Project.load(folder / "pipeline.yaml")
    demo = Project.load(REPOSITORY / "pipeline.yaml")
    assert project.config.project == "My-Pets" and demo.config.retrieval.same_subject == "exclude"
    assert project.config.retrieval.same_subject == "keep"
    assert project.config.customization == demo.config.customization
    # The demo's domains, with evaluation images that name subjects, are measured as in the demo.
    for slug in ("activities", "objects", "symbols", "things"):
        assert project.retrieval(slug) == demo.retrieval(slug)
    assert "This file is the demo's" not in (folder / "pipeline.yaml").read_text()


def test_a_second_project_leaves_a_taken_port_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((servers.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setitem(servers.FIRST_PORTS, "dagster", port)
        assert int(servers._address("dagster", None).rpartition(":")[2]) > port
        with pytest.raises(InputError, match="--dagster-port"):
            servers._address("dagster", port)
