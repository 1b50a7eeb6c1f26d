"""Evaluation sets: folders and manifests joined with the classes by name, and the reading of their
images.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, Literal
from unittest.mock import create_autospec

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support.deadly_images import MARK, deadly_images
from support.drawings import encode, evaluation_image
from support.upkeep import edit_domain

from react_pipeline.clip import Clip, loaded_base
from react_pipeline.embedding import Encoder
from react_pipeline.labelled import (
    FolderOfClasses,
    encode_images,
    preprocessing,
    publish_evaluation_set,
    read_images,
)
from react_pipeline.project import Project
from react_pipeline.settings import DomainConfig, EmbeddingConfig, evaluation, section
from react_pipeline.store import Artifact, ChangedSource, InputError


def with_evaluation(project: Project, path: Path, kind: str = "folder", **fields: Any) -> Project:
    """Give the domain `shapes` labelled images."""
    evaluation = {"name": "mine", "kind": kind, "path": str(path), **fields}
    edit_domain(project, "shapes", evaluation=evaluation)
    return project


def publish(project: Project, path: Path, kind: str = "folder", **fields: Any) -> Artifact:
    return publish_evaluation_set(with_evaluation(project, path, kind, **fields), "shapes")


ANOTHER = encode(evaluation_image("circle", 9))


@pytest.fixture
def folder(drawings: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawings / "evaluation" / "shapes", tmp_path / "images"))


@pytest.fixture
def manifest(folder: Path) -> Path:
    rows = [(path.relative_to(folder.parent), path.parent.name) for path in folder.rglob("*.png")]
    path = folder.parent / "manifest.csv"
    pd.DataFrame(sorted(rows), columns=["path", "class"]).to_csv(path, index=False)
    return path


def test_folders_match_classes_in_any_case_and_spacing(tiny_project: Project, folder: Path) -> None:
    classes = ["Red Circle", "square", "triangle", "x-cross"]
    (folder / "circle").rename(folder / "red_CIRCLE")
    (folder / "cross").rename(folder / "X cross")
    edit_domain(tiny_project, "shapes", classes=classes)
    artifact = publish(tiny_project, folder)
    images = read_images(artifact)
    assert list(images.columns) == ["name", "path", "class", "class_id", "sha256"]
    assert len(images) == artifact.counts["images"] == 16
    assert images["class"].tolist() == [classes[number] for number in images["class_id"]]
    assert images["class_id"].nunique() == 4
    assert all(Path(path).is_file() for path in images["path"])
    assert artifact.counts["classes_without_images"] == []


def test_every_folder_that_is_no_class_is_named_in_one_error(
    tiny_project: Project, folder: Path
) -> None:
    (folder / "hexagon").mkdir()
    (folder / "star").mkdir()
    (folder / "loose.png").write_bytes(b"")
    with pytest.raises(InputError) as raised:
        publish(tiny_project, folder)
    assert all(name in str(raised.value) for name in ("hexagon", "star", "loose.png", str(folder)))
    shutil.rmtree(folder)
    (folder / "circle").mkdir(parents=True)
    with pytest.raises(InputError, match="no image in any subfolder"):
        publish(tiny_project, folder)


def test_classes_without_images_and_other_files_are_counted(
    tiny_project: Project, folder: Path
) -> None:
    shutil.rmtree(folder / "cross")
    (folder / "circle" / "notes.txt").write_text("")
    artifact = publish(tiny_project, folder)
    assert artifact.counts["classes_without_images"] == ["cross"]
    assert (artifact.counts["classes"], artifact.counts["ignored_files"]) == (3, 1)


def test_a_manifest_gives_the_same_images_as_the_folder(
    tiny_project: Project, manifest: Path
) -> None:
    artifact = publish(tiny_project, manifest, "manifest")
    reference = publish(tiny_project, manifest.parent / "images")
    columns = ["path", "class_id", "sha256"]
    assert read_images(artifact)[columns].equals(read_images(reference)[columns])
    # And every bad row is reported by its number.
    table = pd.read_csv(manifest)
    table.loc[1, "class"] = "hexagon"
    table.loc[3, "path"] = "images/gone.png"
    table.loc[5, "path"] = table.loc[4, "path"]
    table.to_csv(manifest, index=False)
    with pytest.raises(InputError) as raised:
        publish(tiny_project, manifest, "manifest")
    assert re.findall(r"row (\d+):", str(raised.value)) == ["2", "4", "6"]


@pytest.mark.parametrize(
    "text",
    [
        "image,label\na.png,circle\n",
        "",
        "path,class\n",
        "path,class\na,b,c\n\xff",
        "path,class" + ",a" * 1_000,
    ],
)
def test_an_unusable_manifest_is_one_error_that_names_the_file(
    tiny_project: Project, manifest: Path, text: str
) -> None:
    manifest.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=re.escape(str(manifest))):
        publish(tiny_project, manifest, "manifest")


def test_images_that_cannot_be_decoded_are_listed_and_not_published(
    tiny_project: Project, folder: Path
) -> None:
    (folder / "circle" / "0.png").write_bytes(b"<html>")
    (folder / "cross" / "1.png").write_bytes(b"")
    with (folder / "square" / "0.png").open("ab") as file:
        file.write(MARK)
    names = r"(?s)circle/0\.png.*cross/1\.png.*square/0\.png: killed_decoder"
    with deadly_images(), pytest.raises(InputError, match=names):
        publish(tiny_project, folder)
    assert tiny_project.store.keys("evaluation_set") == []


def test_identity_is_content_not_place(tiny_project: Project, folder: Path, tmp_path: Path) -> None:
    first = publish(tiny_project, folder)
    moved = folder.rename(tmp_path / "moved")
    project = with_evaluation(tiny_project, moved)
    second = publish_evaluation_set(project, "shapes")
    assert second.reused and second.fingerprint == first.fingerprint
    images = read_images(second, project.domain("shapes"))
    assert all(Path(path).is_file() for path in images["path"])
    (moved / "circle" / "0.png").write_bytes(ANOTHER)
    assert publish_evaluation_set(project, "shapes").fingerprint != first.fingerprint


def test_images_are_encoded_in_order_and_alike_in_any_batch(
    tiny_project: Project, clip: Clip
) -> None:
    images = read_images(publish_evaluation_set(tiny_project, "colours"))
    config = tiny_project.config
    small = EmbeddingConfig(precision="fp32", batch_size=5, workers=2)
    in_parts = config.model_copy(update={"embedding": small})
    whole, parts = (encode_images(given, clip, images) for given in (config, in_parts))
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    assert encode_images(config, clip, images[:0]).shape == (0, clip.dimension)


def test_images_are_prepared_as_the_model_says_unless_they_are_squashed(clip: Clip) -> None:
    strip = Image.new("RGB", (96, 32))
    strip.paste("white", (0, 0, 16, 32))  # the middle is black
    own, squashed = (preprocessing(clip, squash=squash)(strip) for squash in (False, True))
    assert torch.equal(own, clip.preprocess(strip))
    assert squashed.max() > own.max() and squashed.shape == own.shape


def test_images_are_encoded_once_and_still_refused_when_changed(
    tiny_project: Project, folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = with_evaluation(tiny_project, folder)
    images = read_images(publish_evaluation_set(project, "shapes"))
    encoder = create_autospec(Encoder.images, side_effect=Encoder.images)
    monkeypatch.setattr(Encoder, "images", encoder)

    def encoded() -> int:
        return sum(len(call.args[1]) for call in encoder.call_args_list)

    base = loaded_base(tiny_checkpoint, "cpu")
    first, again = (encode_images(project.config, base, images) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert encoded() == len(images)
    encode_images(project.config, base, images[1:])
    encode_images(project.config, base, images, precision="bf16")
    assert encoded() == 3 * len(images) - 1
    changed = folder / "circle" / "0.png"
    changed.write_bytes(ANOTHER)
    with pytest.raises(ChangedSource, match="evaluation_set"):
        encode_images(project.config, base, images)
    changed.unlink()
    with pytest.raises(ChangedSource, match="0.png"):
        encode_images(project.config, base, images)


def test_classes_of_one_name_are_kept_apart_by_their_ids(
    tiny_project: Project, folder: Path
) -> None:
    twins = [{"id": f"ring {n}", "name": "ring", "synonyms": [f"hoop {n}"]} for n in (1, 2)]
    (folder / "circle").rename(folder / "ring_2")
    (folder / "square").rename(folder / "hoop-1")
    edit_domain(tiny_project, "shapes", classes=[*twins, "triangle", "cross"])
    images = read_images(publish(tiny_project, folder))
    found = images.groupby("class_id")["class"].agg(list)
    names = ["ring 1", "ring 2", "triangle", "cross"]
    assert found.tolist() == [[name] * 4 for name in names]
    (folder / "ring_2").rename(folder / "ring")  # which of the two
    with pytest.raises(InputError, match="ring"):
        publish(tiny_project, folder)


class Part(FolderOfClasses):
    """A kind of an extension, with a field of its own."""

    kind: Literal["part"] = "part"  # type: ignore[assignment]
    at_most: int

    def images(self, domain: DomainConfig) -> tuple[pd.DataFrame, dict[str, Any]]:
        images, notes = super().images(domain)
        return images.head(self.at_most), notes


def test_a_kind_of_labelled_images_has_fields_of_its_own(
    tiny_project: Project, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {**evaluation.labelled_kinds(), "part": Part}
    monkeypatch.setattr(section, "kinds_of_extensions", lambda _hook: kinds)
    monkeypatch.setattr("react_pipeline.labelled.kind.labelled_kinds", lambda: kinds)
    artifact = publish(tiny_project, folder, "part", at_most=5)
    described = {"name": "mine", "kind": "part", "at_most": 5}  # and not where the files are
    assert artifact.manifest["config"]["evaluation"] == described
    assert len(read_images(artifact, tiny_project.domain("shapes"))) == 5
    with pytest.raises(InputError, match=r"evaluation\.at_most: .*integer"):
        with_evaluation(tiny_project, folder, "part", at_most="few").domain("shapes")
    with pytest.raises(InputError, match=r"evaluation\.at_most: unknown field"):
        with_evaluation(tiny_project, folder, at_most=5).domain("shapes")
