"""The plan of a project: what each step will need on a machine, before anything runs, and what it took.

Belongs here: the sums of one configuration. Does not belong here: rates and formulas (`rates`), printing
(`commands.plan`).
"""

from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from react_pipeline.clip import GATED_PREFIX, class_prompts, prompt_templates, read_config
from react_pipeline.corpus import LAYOUTS, count_pairs, find_parts, source_files
from react_pipeline.indexing import BYTES_PER_SECOND, Key, Searched, choose_key, estimate
from react_pipeline.pipeline import ALL, STAGES
from react_pipeline.project import Manifests, Project
from react_pipeline.settings import load_domains
from react_pipeline.store import InputError, ReactError
from react_pipeline.workload.machine import Machine
from react_pipeline.workload.rates import (
    ALIVE,
    IMAGE_BYTES,
    METADATA_BYTES,
    PASSES_OF_TRAINING,
    URL_BYTES,
    EncoderCost,
    download_hours,
    encoding_hours,
    index_core_hours,
)

DEMO_PAIRS = 10_000
SHARD_PAIR_BYTES = 50_000
"""Of a pair in a shard; assumed where nothing was counted."""
LONG_HOURS = 24


@dataclass(frozen=True)
class Step:
    """The sums of a stage over all its keys, in bytes and hours; None where no rate was measured that they follow from.

    `measured_hours` and `measured_disk` are there once all its artifacts are.
    """

    stage: str
    amount: str
    disk: float = 0
    memory: float = 0
    operations: float = 0
    cpu_hours: float | None = 0
    gpu_hours: float | None = None
    spark_hours: float | None = None
    search: str = ""
    measured_hours: float | None = None
    measured_disk: int | None = None


@dataclass(frozen=True)
class Plan:
    """The steps, and what will not fit, with the setting that helps."""

    machine: Machine
    rows: int
    steps: list[Step]
    problems: list[str]


_ADVICE = {
    "corpus": "download with img2dataset on a cluster and use `corpus.kind: webdataset`",
    "faiss_index": "set `index.key: auto`, or a key of shorter codes (docs/faiss-index.md)",
}


def plan_of(project: Project, machine: Machine, rows: int | None = None) -> Plan:
    """The sums of a configuration.

    Args:
        rows: Of the corpus; None: as published, or as its files say.

    Raises:
        InputError: If the number of rows is not known.
    """
    look = Manifests.of(project)
    sums = _Sums(look, machine, rows or _rows(look))
    problems, steps = sums.problems, [_measured(look, step) for step in sums.steps()]
    needed = sum(step.disk for step in steps if step.measured_disk is None)
    if needed > machine.disk:
        problems.append(
            f"disk: {needed / 1e9:,.0f} GB are needed, {machine.disk / 1e9:,.0f} GB are free: set `store` to a larger "
            "disk, `corpus.download.image_size: 256`, or `index.memory_gib` for a smaller index"
        )
    for step in steps:
        if step.memory > machine.memory:
            problems.append(
                f"{step.stage}: {step.memory / 1e9:,.1f} GB of memory are needed, {machine.memory / 1e9:,.1f} GB are "
                f"available: {_ADVICE[step.stage]}"
            )
        hours = [hours for hours in (step.cpu_hours, step.gpu_hours, step.spark_hours) if hours is not None]
        if min(hours, default=0) > LONG_HOURS and step.measured_hours is None:
            trains = step.stage == "customized_checkpoint"
            less = "fewer steps or epochs (`customization`)" if trains else "more machines (`distributor.kind: spark`)"
            problems.append(f"{step.stage}: {min(hours) / 24:,.1f} days: use a GPU, or {less}")
    return Plan(machine, sums.rows, steps, problems)


class _Sums:
    """The sums, stage by stage."""

    def __init__(self, project: Project, machine: Machine, rows: int) -> None:
        self.project, self.machine, self.rows = project, machine, rows
        self.config, self.corpus, self.problems = project.config, project.config.corpus, list[str]()
        self.encoder, self.domains = _encoder(project), load_domains(project.config.domains)[0]
        self.key = self._chosen_key()
        self.pairs_of: dict[str, int] = {}
        for slug, domain in self.domains.items():
            settings = project.retrieval(slug)
            most = rows if settings.choose == "all" else len(domain.classes) * settings.max_per_class
            self.pairs_of[slug] = min(most, settings.max_pairs or rows, rows)
        self.pairs = sum(self.pairs_of.values())

    def steps(self) -> list[Step]:
        fetched = download_hours(self.pairs / ALIVE) if self.corpus.kind == "embeddings" else 0.0
        pairs = Step("control_set", f"{self.pairs:,} pairs at most", self.pairs * IMAGE_BYTES, cpu_hours=fetched)
        searched = self._searched(replace(pairs, stage="retrieved_set"), fetched)
        return [self._corpus(), self._embeddings(), self._index(), searched, pairs, self._training()]

    def _corpus(self) -> Step:
        workers, kind = self.machine.workers, self.corpus.kind
        if kind == "urls":
            hours = download_hours(self.rows)
            disk, spark = ALIVE * self.rows * IMAGE_BYTES, hours / workers if workers else None
            return Step("corpus", f"{self.rows:,} URLs", disk, URL_BYTES * self.rows, 0, hours, None, spark)
        read = self.rows * (4 * self.encoder.dimension if kind == "embeddings" else SHARD_PAIR_BYTES)
        disk = read if kind in ("images", "demo") else 0
        return Step("corpus", f"{self.rows:,} pairs", disk, cpu_hours=read / BYTES_PER_SECOND / 3_600)

    def _embeddings(self) -> Step:
        operations = self.rows * (self.encoder.image + self.encoder.text)
        disk = self.rows * (4.0 * self.encoder.dimension + METADATA_BYTES)
        if self.corpus.kind == "embeddings":
            has_text = bool(LAYOUTS[self.corpus.layout].text)
            operations = 0 if has_text else self.rows * self.encoder.text
            disk = 0 if has_text and self.corpus.subset is None else disk
        return self._encoded(Step("corpus_embeddings", f"{self.rows:,} pairs", disk, operations=operations))

    def _encoded(self, step: Step) -> Step:
        """With the hours of its operations."""
        cores, gpus, workers = self.machine.cores, self.machine.gpus, self.machine.workers

        hours = partial(encoding_hours, step.operations, precision=self.machine.precision)
        on_gpus, on_spark = hours(cores=0, gpus=gpus), hours(cores=cores * workers)
        return replace(step, cpu_hours=hours(cores=cores), gpu_hours=on_gpus, spark_hours=on_spark)

    def _chosen_key(self) -> Key:
        index, memory = self.config.index, self.machine.memory
        try:
            # As of `choose_key` on that machine: `auto` leaves half of the memory.
            limit = int((index.memory_gib or 0) * 2**30) or (memory // 2 if index.key == "auto" else memory)
            return Key.parse(choose_key(index, self.rows, self.encoder.dimension, limit)[0])
        except InputError as error:
            self.problems.append(str(error))
            return Key.parse(index.key)

    def _index(self) -> Step:
        key, width, cores, workers = self.key, self.encoder.dimension, self.machine.cores, self.machine.workers
        if self.corpus.indices is not None:
            return Step("faiss_index", "ready")
        size = key.bytes(self.rows, width)
        sample = 4 * width * min(key.sample_rows if key.trains else 0, self.rows)
        hours = index_core_hours(self.rows, key, width)
        here = None if hours is None else hours / cores
        spark = None if here is None or not workers else here / workers
        return Step("faiss_index", key.text, 2 * size, size + sample, 0, here, None, spark)

    def _searched(self, step: Step, fetched: float) -> Step:
        machine, found, operations = self.machine, dict[str, None](), 0.0
        built = Searched.planned(self.key, self.rows, self.encoder.dimension)
        hours = {"cpu": fetched, "cuda": fetched, "spark": fetched / max(machine.workers, 1)}
        for slug, domain in self.domains.items():
            settings, prompts = self.project.retrieval(slug), len(class_prompts(domain))
            for place in hours if settings.choose != "all" else ():
                choice = estimate(
                    settings.search,
                    built,
                    prompts,
                    settings.k_per_prompt,
                    device="cuda" if place == "cuda" else "cpu",
                    spreads=place == "spark",
                    cores=machine.cores * (max(machine.workers, 1) if place == "spark" else 1),
                    precision=machine.precision,
                    templates=len(prompt_templates(domain)),
                )
                hours[place] += len(settings.modes) * choice.seconds / 3_600
                if place == "cpu":
                    operations += len(settings.modes) * choice.operations
                    found[f"{slug}: {choice.way} ({choice.reason})"] = None
        return replace(
            step,
            operations=operations,
            cpu_hours=hours["cpu"],
            gpu_hours=hours["cuda"] if machine.gpus else None,
            spark_hours=hours["spark"] if machine.workers else None,
            search="; ".join(found),
        )

    def _training(self) -> Step:
        keys = STAGES["customized_checkpoint"].keys(self.domains, self.config.methods)
        named = [key.split("/") for key in keys]
        images = sum(self.project.training(*key).images(partial(int, self.pairs_of[key[0]])) for key in named)
        operations = PASSES_OF_TRAINING * images * (self.encoder.image + self.encoder.text)
        disk, amount = len(keys) * self.encoder.weights_bytes, f"{images:,} images in all steps"
        step = Step("customized_checkpoint", amount, disk, operations=operations)
        return replace(self._encoded(step), spark_hours=None)


def _rows(project: Project) -> int:
    corpus = project.config.corpus
    with suppress(ReactError):
        if counted := count_pairs(project.store.current("corpus", ALL)):
            return counted
    if corpus.kind == "embeddings" and corpus.embeddings is not None:
        rows = sum(part.rows for part in find_parts(corpus.embeddings, corpus))
        return rows if corpus.subset is None else min(rows, len(np.load(corpus.subset, mmap_mode="r")))
    if corpus.kind == "demo":
        return DEMO_PAIRS
    files = source_files(corpus)
    local = [path for path in files if isinstance(path, Path) and path.suffix in (".parquet", ".tar")]
    if len(local) < len(files):
        raise InputError("the rows of this corpus are not known before it is read: give --rows")
    return sum(
        pq.read_metadata(path).num_rows if path.suffix == ".parquet" else path.stat().st_size // SHARD_PAIR_BYTES + 1
        for path in local
    )


def _encoder(project: Project) -> EncoderCost:
    """The configured CLIP; ViT-B/32 where only its weights, or packages of the demo, could say."""
    from open_clip import get_model_config

    encoder = project.config.encoder
    folders = [Path(encoder.pretrained)] if encoder.pretrained else []
    with suppress(ReactError):
        folders.append(project.store.current("base_checkpoint", ALL).path)
    for folder in folders:
        if (folder / "open_clip_config.json").is_file():
            return EncoderCost.of(read_config(folder)[0], folder)
    named = get_model_config(encoder.model.removeprefix(GATED_PREFIX))
    return EncoderCost.of(named or get_model_config("ViT-B-32"))


def _measured(project: Project, step: Step) -> Step:
    """With what its published artifacts took, where all that are wanted are there."""
    keys = STAGES[step.stage].keys(load_domains(project.config.domains)[0], project.config.methods)
    if not keys or not set(project.store.keys(step.stage)).issuperset(keys):
        return step
    artifacts = [project.store.current(step.stage, key) for key in keys]
    seconds: list[Any] = [artifact.counts.get("seconds") for artifact in artifacts]
    hours = None if None in seconds else sum(seconds) / 3_600
    disk = sum(file["bytes"] for artifact in artifacts for file in artifact.manifest["files"].values())
    return replace(step, measured_hours=hours, measured_disk=disk)
