"""FAULTS 21 to 23, 43: domain files that are wrong, hostile, or badly named."""

from __future__ import annotations

import contextlib
import datetime
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from react_pipeline.settings import (
    SLUG_RULE,
    DomainConfig,
    load_domain,
    load_domains,
    load_pipeline,
)
from react_pipeline.settings.files import MAX_PROBLEMS, MAX_YAML_BYTES
from react_pipeline.store import ConfigError

GOOD = {"classes": ["cat", "dog"]}


def reported(path: Path, value: object) -> str:
    text = value if isinstance(value, (str, bytes)) else yaml.safe_dump(value)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as error:
        load_domain(path)
    return str(error.value)


BOMB = "a: &a [x,x,x,x]\n" + "\n".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: !!python/object/apply:os.system ['touch owned']", "tags"),
        ("classes: !!binary x", "tags"),
        ('classes: ["\\ud800"]', "not valid YAML"),
        ('classes: ["a\\0b"]', "NUL"),
        ('classes: [a]\nevaluation: {name: a, kind: folder, path: "a\\0b"}', "NUL"),
        ("? [a]\n: b", "not valid YAML"),
        ("classes: " + "1:" * 100_000 + "1", "list"),
        ("classes: [" + "1," * 250_000 + "1]", "twice"),
        ("classes: " + "[" * 900 + "]" * 900, "not valid YAML"),
        (BOMB, "aliases"),
        ("- a list", "must be a mapping"),
        ("classes: [cat\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        (b"\xff\xfe\x00classes", "utf-8"),
        ("", "must be a mapping"),
        ("classes: [cat]\n" + "#" * MAX_YAML_BYTES, "more than"),
    ],
)
def test_hostile_yaml_is_refused(
    tmp_path: Path, text: str | bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # 22
    monkeypatch.chdir(tmp_path)
    assert words in reported(tmp_path / "pets.yaml", text)
    assert not (tmp_path / "owned").exists()


def test_of_a_flood_of_problems_a_hundred_are_listed(tmp_path: Path) -> None:  # 43
    lines = reported(tmp_path / "pets.yaml", f"classes: [{'[],' * 1_000}]\nother: 1").splitlines()
    assert len(lines) == MAX_PROBLEMS + 1 and lines[-1].endswith("more problems")


def test_a_path_outside_its_folder_is_that_domains_error(
    tmp_path: Path,
) -> None:  # 43
    folder = tmp_path / "domains"
    folder.mkdir()
    (folder / "good.yaml").write_text(yaml.safe_dump({**GOOD, "slug": "good"}))
    os.mkfifo(folder / "fifo.yaml")
    (folder / "device.yaml").symlink_to("/dev/zero")
    (tmp_path / "secret.yaml").write_text(yaml.safe_dump({**GOOD, "slug": "secret"}))
    (folder / "secret.yaml").symlink_to(tmp_path / "secret.yaml")
    (folder / "directory.yaml").mkdir()
    (folder / "loop.yaml").symlink_to(folder / "loop.yaml")
    domains, problems = load_domains(folder)
    assert list(domains) == ["good"]
    reported = {problem.file.stem: str(problem) for problem in problems}
    assert reported.keys() == {"fifo", "device", "secret", "directory", "loop"}
    assert "regular file" in reported["fifo"]


ATOMS = (
    None,
    True,
    1 << 70,
    -1.5,
    float("nan"),
    "",
    "{}",
    "a\0b",
    "\u2028\xe9",
    b"\xff",
    datetime.date(2001, 9, 9),
)
FIELDS = (*DomainConfig.model_fields, "unknown")


def drawn(chance: random.Random, depth: int = 3) -> Any:
    """Anything that YAML can hold."""
    if not depth or chance.random() < 0.5:
        return chance.choice(ATOMS)
    inside = [drawn(chance, depth - 1) for _ in range(chance.randrange(4))]
    keys = chance.sample(ATOMS, len(inside))
    return chance.choice([inside, dict(zip(keys, inside, strict=True))])


def test_any_file_is_a_domain_or_a_configuration_error(tmp_path: Path) -> None:  # 43
    path = tmp_path / "pets.yaml"
    for seed in range(300):
        chance = random.Random(seed)  # noqa: S311 - no secrets
        names = chance.sample(FIELDS, chance.randrange(7))
        whole = yaml.dump({name: drawn(chance) for name in names}).encode()
        cut = whole[: chance.randrange(len(whole))]
        path.write_bytes(chance.choice([whole, whole, cut, chance.randbytes(200)]))
        for load in (load_domain, load_pipeline):
            with contextlib.suppress(ConfigError):
                load(path)


@pytest.mark.parametrize("slug", ["..", "a/b", "a\n", "Grün", "Pets", "-x", "a" * 64, ""])
def test_slugs_that_are_no_safe_names_are_refused(tmp_path: Path, slug: str) -> None:  # 23
    assert SLUG_RULE in reported(tmp_path / "pets.yaml", {**GOOD, "slug": slug})


def test_the_slug_must_be_the_name_of_the_file(tmp_path: Path) -> None:  # 23
    assert "dogs.yaml" in reported(tmp_path / "pets.yaml", {**GOOD, "slug": "dogs"})
