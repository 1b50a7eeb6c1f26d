"""Configuration files: `pipeline.yaml` and domain files as models, with absolute paths.

Does not belong here: which fields there are and what they may hold (`config`), reading YAML
(`yaml_files`). Relative paths are resolved against the directory of the file that names them; `~`
is the home directory, as in a shell.
"""

import os
import re
import time
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path

from react_pipeline.settings.config import DomainConfig, PipelineConfig, pipeline_model
from react_pipeline.settings.messages import validate
from react_pipeline.settings.secrets import has_secret
from react_pipeline.settings.small_sections import HUB_PREFIX, EncoderConfig
from react_pipeline.settings.yaml_files import Document, read_yaml
from react_pipeline.store import ConfigError, Problem, stamp_of

CLOCK_STEP_NS = 2_000_000_000
"""The coarsest time of a file that is in use, of FAT."""

TRACKING_VARIABLE = "REACT_TRACKING_URI"
"""Overrides `tracking_uri`; the only place for a database address with a password."""

_IS_PATH = re.compile(r"/|\.(pt|pth|bin|ckpt|safetensors)$")
"""No tag of open_clip looks so."""

_STORE_URL = re.compile(r"(s3|gs|az)://[A-Za-z0-9][A-Za-z0-9._-]+(/[A-Za-z0-9._=-]+)*/?")


def load_pipeline(path: Path) -> PipelineConfig:
    """Read `pipeline.yaml`; its relative paths become absolute.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    base = path.resolve().parent
    document = read_yaml(path)
    url = _take_store_url(document)
    raw = validate(document, pipeline_model())
    config = raw.located(lambda name: _absolute(base, name).resolve())
    if url:  # `store` is then the folder of this machine's part
        config = config.model_copy(update={"store": config.cache.folder})
    corpus = raw.corpus.located(partial(_absolute, base))  # names with patterns keep their links
    if misplaced := corpus.misplaced(config.store):
        field, problem = misplaced
        raise ConfigError.of(path, problem, f"corpus.{field}", document.line(("corpus", field)))
    update = {
        "tracking_uri": _tracking_uri(path)
        or config.tracking_uri
        or f"sqlite:///{config.store.parent / 'mlflow.db'}",
        "corpus": corpus,
        "encoder": _with_weights(config.encoder, base),
        "retrieval_encoder": config.retrieval_encoder
        and _with_weights(config.retrieval_encoder, base),
    }
    config = config.model_copy(update=update)
    config._store_url = url
    return config


def _take_store_url(document: Document) -> str:
    """Take the URL that `store` holds in place of a folder out of a file; "" if it holds none."""
    store = document.fields.get("store")
    if not isinstance(store, str) or "://" not in store:
        return ""
    if not _STORE_URL.fullmatch(store):
        problem = "must be a folder, or s3://, gs:// or az:// with NAME/PREFIX, no password or `?`"
        raise ConfigError.of(document.path, problem, "store", document.line(("store",)))
    del document.fields["store"]
    return store.rstrip("/")


def _with_weights(encoder: EncoderConfig, base: Path) -> EncoderConfig:
    """Return an encoder with the absolute path of its checkpoint, if it names one."""
    if encoder.pretrained and not encoder.pretrained.startswith(HUB_PREFIX):
        checkpoint = _absolute(base, encoder.pretrained)
        if checkpoint.exists() or _IS_PATH.search(encoder.pretrained):
            return encoder.model_copy(update={"pretrained": str(checkpoint.resolve())})
    return encoder


def _tracking_uri(path: Path) -> str:
    named = os.environ.get(TRACKING_VARIABLE, "")
    if named.startswith("http") and has_secret(named):
        # MLflow repeats the address of a server in its messages.
        problem = (
            f"{TRACKING_VARIABLE} holds a password; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
        raise ConfigError.of(path, problem, "tracking_uri")
    return named


def _absolute(base: Path, name: Path | str) -> Path:
    """Return a path below a folder without links, from which `..` at the front therefore lead to
    parents: messages show a path without them.
    """
    path = Path(name)
    with suppress(RuntimeError):  # no user is called so, but a file may be
        path = path.expanduser()
    while path.parts[:1] == ("..",):
        base, path = base.parent, Path(*path.parts[1:])
    return base / path


def load_domain(path: Path) -> DomainConfig:
    """Read one domain file; the file is named `<slug>.yaml`, and `slug` may be left out in it.

    A file is parsed once in this process for as long as it is the same, as whoever looks every
    minute needs.

    Raises:
        ConfigError: Listing every problem with file and field.
    """
    try:
        status = path.stat()
    except OSError:
        return _load_domain(path)
    # A file that was written just now may be written again within one step of its clock.
    if time.time_ns() - status.st_mtime_ns < CLOCK_STEP_NS:
        return _load_domain(path)
    return _load_once(path, stamp_of(status))


@lru_cache(maxsize=10_000)
def _load_once(path: Path, _stamp: tuple[int, ...]) -> DomainConfig:
    return _load_domain(path)


def _load_domain(path: Path) -> DomainConfig:
    target = Path(os.path.realpath(path))  # `Path.resolve` raises where links go round
    if not target.is_relative_to(os.path.realpath(path.parent)):
        raise ConfigError.of(path, f"is a link to {target}, out of its folder; copy the file here")
    document = read_yaml(path)
    document.fields.setdefault("slug", path.stem)
    config = validate(document, DomainConfig)
    if config.slug != path.stem:
        problem = f"is {config.slug!r}, so the file must be named {config.slug}.yaml"
        raise ConfigError.of(path, problem, "slug", document.line(("slug",)))
    base = path.resolve().parent
    config = config.located(partial(_absolute, base))
    classes = tuple(
        entry.model_copy(update={"seeds": _seeds(base, entry.seeds)}) for entry in config.classes
    )
    return config.model_copy(update={"classes": classes})


def _seeds(base: Path, seeds: tuple[Path, ...]) -> tuple[Path, ...]:
    # Relative ones stay as they are written: they are named so in messages.
    return tuple(_absolute(base, seed) if str(seed).startswith("~") else seed for seed in seeds)


def load_domains(directory: Path) -> tuple[dict[str, DomainConfig], list[Problem]]:
    """Read every `*.yaml` of a directory: the valid domains by slug, and the problems of the
    others.
    """
    domains = {}
    problems = misnamed(directory)
    for path in sorted(directory.glob("*.yaml")):
        try:
            domains[path.stem] = load_domain(path)
        except ConfigError as error:
            problems += error.problems
    return domains, problems


def misnamed(directory: Path) -> list[Problem]:
    """Return the files of a directory that look like domains and are not read, since their names
    end otherwise.
    """
    paths = sorted(directory.iterdir()) if directory.is_dir() else []
    others = [
        path
        for path in paths
        if path.suffix.lower() in (".yml", ".yaml") and path.suffix != ".yaml"
    ]
    return [Problem(path, "", f"is not read: rename it to {path.stem}.yaml") for path in others]
