"""Configuration files: the one reader of YAML, and its errors with file and field.

Does not belong here: which fields there are and what they may hold (`config`). Relative paths are resolved against the
directory of the file that names them; `~` is the home directory, as in a shell.
"""

import json
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from react_pipeline.settings.config import DomainConfig, PipelineConfig
from react_pipeline.settings.secrets import has_secret, without_secrets
from react_pipeline.settings.shard_patterns import is_url
from react_pipeline.store import ConfigError, Problem, stamp_of

CLOCK_STEP_NS = 2_000_000_000
"""The coarsest time of a file that is in use, of FAT."""

MAX_YAML_BYTES = 2_000_000
"""Larger configuration files are refused unread."""

MAX_DEPTH = 20
MAX_PROBLEMS = 100
MAX_SCALAR = 10_000
MAX_EVENTS = 250_000
"""Of the parser, a second's work; ImageNet-21k with three synonyms a class has 220,000."""

TRACKING_VARIABLE = "REACT_TRACKING_URI"
"""Overrides `tracking_uri`; the only place for a database address with a password."""

Model = TypeVar("Model", bound=BaseModel)

LOADER: type[yaml.SafeLoader | yaml.CSafeLoader] = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
"""libyaml reads the same files ten times as fast; a step reads its project and domain several times."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one YAML mapping: no tags, no aliases, no more than `MAX_YAML_BYTES`.

    Raises:
        ConfigError: If the file is missing, no regular file, too large, not UTF-8, not YAML, or not a mapping, and
            whatever else the parser raises: one file never stops the others.
    """
    try:
        text = _read(path)
        _refuse_bombs(path, text)
        loaded = yaml.load(text, Loader=LOADER)  # noqa: S506 - both are safe loaders
        # A lone surrogate, written as an escape, is text that no file can hold.
        json.dumps(loaded, default=str, ensure_ascii=False).encode()
    except ConfigError:
        raise
    except OSError as error:
        raise ConfigError([Problem(path, "", f"cannot be read: {error}")]) from error
    except Exception as error:
        raise ConfigError([Problem(path, "", f"is not valid YAML: {' '.join(str(error).split())[:500]}")]) from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError([Problem(path, "", "must be a mapping of field names to values")])
    return loaded


def _read(path: Path) -> str:
    # Opening a FIFO waits for its writer, and a device may never end.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ConfigError([Problem(path, "", "is not a regular file")])
        data = file.read(MAX_YAML_BYTES + 1)
    if len(data) > MAX_YAML_BYTES:
        raise ConfigError([Problem(path, "", f"larger than {MAX_YAML_BYTES:,} bytes; a configuration is small")])
    return data.decode()


def _refuse_bombs(path: Path, text: str) -> None:
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            problem = "YAML aliases (*name) are refused; write the value out"  # a few expand to gigabytes
        elif getattr(event, "tag", None) is not None:
            problem = "YAML tags (!!name) are refused; write plain text, numbers, lists and mappings"
        elif "\0" in getattr(event, "value", ""):
            problem = "a value holds a NUL, which no path and no database takes"
        elif depth > MAX_DEPTH:
            problem = f"lists and mappings are nested more than {MAX_DEPTH} deep"
        elif len(getattr(event, "value", "")) > MAX_SCALAR:
            problem = f"a value is longer than {MAX_SCALAR:,} characters"  # numbers take quadratic time
        elif number > MAX_EVENTS:
            problem = f"holds more than {MAX_EVENTS:,} values"
        else:
            continue
        raise ConfigError([Problem(path, "", problem)])


def load_pipeline(path: Path) -> PipelineConfig:
    """Read `pipeline.yaml`; its relative paths become absolute.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    base = path.resolve().parent
    config = _located(_validate(PipelineConfig, read_yaml(path), path), base, "store", "domains")
    encoder, corpus = config.encoder, _located(config.corpus, base, "embeddings", "subset", "indices")
    if encoder.pretrained and (checkpoint := _absolute(base, encoder.pretrained)).exists():
        encoder = encoder.model_copy(update={"pretrained": str(checkpoint.resolve())})
    files = {
        "shards": tuple(name if is_url(name) else str(_absolute(base, name)) for name in corpus.shards),
        **{field: tuple(str(_absolute(base, name)) for name in getattr(corpus, field)) for field in ("images", "urls")},
    }
    for folder in files["images"]:
        if config.store.is_relative_to(Path(folder).resolve()):
            # Each step changes what is in the store, so that the corpus would never be up to date.
            problem = f"{folder} holds the store {config.store}; name the folders of the images, or move `store`"
            raise ConfigError([Problem(path, "corpus.images", problem)])
    update = {
        "tracking_uri": _tracking_uri(path) or config.tracking_uri or f"sqlite:///{config.store.parent / 'mlflow.db'}",
        "corpus": corpus.model_copy(update=files),
        "encoder": encoder,
        "elevater": _located(config.elevater, base, "root"),
        "dense": _located(config.dense, base, "root", "rpn_checkpoint", "student_backbone"),
    }
    return config.model_copy(update=update)


def _tracking_uri(path: Path) -> str:
    named = os.environ.get(TRACKING_VARIABLE, "")
    if named.startswith("http") and has_secret(named):
        # MLflow repeats the address of a server in its messages.
        problem = f"{TRACKING_VARIABLE} holds a password; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        raise ConfigError([Problem(path, "tracking_uri", problem)])
    return named


def _located(section: Model, base: Path, *fields: str) -> Model:
    """With these fields, paths, as absolute ones."""
    given = ((name, getattr(section, name)) for name in fields)
    return section.model_copy(update={key: _absolute(base, path).resolve() for key, path in given if path is not None})


def _absolute(base: Path, name: Path | str) -> Path:
    try:
        return base / Path(name).expanduser()
    except RuntimeError:
        # No user is called so, but a file may be.
        return base / name


def load_domain(path: Path) -> DomainConfig:
    """Read one domain file; the file is named `<slug>.yaml`, and `slug` may be left out in it.

    A file is parsed once in this process for as long as it is the same, as whoever looks every minute needs.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    with suppress(OSError):
        found = path.stat()
        stamp = stamp_of(found)
        if path not in _parsed or _parsed[path][0] != stamp:
            domain = _load_domain(path)
            # A file that was written just now may be written again within one step of its clock.
            if time.time_ns() - found.st_mtime_ns < CLOCK_STEP_NS:
                return domain
            _parsed[path] = stamp, domain
        return _parsed[path][1]
    return _load_domain(path)


_parsed: dict[Path, tuple[tuple[int, ...], DomainConfig]] = {}


def _load_domain(path: Path) -> DomainConfig:
    target = Path(os.path.realpath(path))  # `Path.resolve` raises where links go round
    if not target.is_relative_to(os.path.realpath(path.parent)):
        raise ConfigError([Problem(path, "", f"is a link to {target}, out of its folder; copy the file here")])
    raw = read_yaml(path)
    raw.setdefault("slug", path.stem)
    config = _validate(DomainConfig, raw, path)
    if config.slug != path.stem:
        raise ConfigError([Problem(path, "slug", f"is {config.slug!r}, so the file must be named {config.slug}.yaml")])
    base = path.resolve().parent
    if config.evaluation is not None and config.evaluation.path is not None:
        located = config.evaluation.model_copy(update={"path": _absolute(base, config.evaluation.path)})
        config = config.model_copy(update={"evaluation": located})
    classes = tuple(entry.model_copy(update={"seeds": _seeds(base, entry.seeds)}) for entry in config.classes)
    return config.model_copy(update={"classes": classes})


def _seeds(base: Path, seeds: tuple[Path, ...]) -> tuple[Path, ...]:
    # Relative ones stay as they are written: they are named so in messages.
    return tuple(_absolute(base, seed) if str(seed).startswith("~") else seed for seed in seeds)


def load_domains(directory: Path) -> tuple[dict[str, DomainConfig], list[Problem]]:
    """Read every `*.yaml` of a directory: the valid domains by slug, and the problems of the others."""
    domains, problems = {}, misnamed(directory)
    for path in sorted(directory.glob("*.yaml")):
        try:
            domains[path.stem] = load_domain(path)
        except ConfigError as error:
            problems += error.problems
    return domains, problems


def misnamed(directory: Path) -> list[Problem]:
    """The files of a directory that look like domains and are not read, since their names end otherwise."""
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    others = [path for path in found if path.suffix.lower() in (".yml", ".yaml") and path.suffix != ".yaml"]
    return [Problem(path, "", f"is not read: rename it to {path.stem}.yaml") for path in others]


def _validate(model: type[Model], raw: dict[str, Any], path: Path) -> Model:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        found = error.errors()
        problems = [Problem(path, _field_of(entry["loc"]), _message_of(entry)) for entry in found[:MAX_PROBLEMS]]
        more = [Problem(path, "", f"has {len(found) - MAX_PROBLEMS:,} more problems")] if found[MAX_PROBLEMS:] else []
        raise ConfigError(problems + more) from error
    except Exception as error:  # of a check that met what it was not made for
        raise ConfigError([Problem(path, "", f"cannot be checked: {error!r}"[:500])]) from error


def _field_of(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _message_of(entry: Any) -> str:
    if entry["type"] == "extra_forbidden":
        return "unknown field; remove it or fix its spelling"
    message = str(entry["msg"]).removeprefix("Value error, ")
    shown = entry["input"]
    if entry["type"] == "value_error" or not isinstance(shown, (str, int, float, bool)):
        return message
    return without_secrets(f"{message} (found {shown!r})")
