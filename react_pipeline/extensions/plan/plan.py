"""The plan of a project: what each step will need on a machine, before anything runs.

Rows times the cost of one, bytes of vectors and keys, downloads at a rate. Does not belong here:
what an image or a caption costs (`encoder_cost`), printing (`commands`).
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from react_pipeline.clip import (
    cards,
    choose_precision,
    machine_memory_bytes,
    prompt_templates,
)
from react_pipeline.corpus import CorpusSize, count_pairs
from react_pipeline.embedding import CPU_IMAGES
from react_pipeline.extensions.plan.encoder_cost import EncoderCost
from react_pipeline.extensions.sources import ALIVE, DOWNLOADER_SECONDS, URLS_PER_CORE_SECOND
from react_pipeline.indexing import Key, choose_key, product_precision
from react_pipeline.labelled import count_images
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Manifests, Project
from react_pipeline.retrieval import REFILL_ROUNDS, most_pairs
from react_pipeline.settings import CorpusConfig, TrainingConfig, load_domains
from react_pipeline.stage import ALL, CORPUS, RETRIEVAL_CHECKPOINT, STAGES
from react_pipeline.store import InputError, ReactError
from react_pipeline.training import STATE_BYTES, ModelMethod

START_SECONDS = 0.5
"""Seconds that every artifact takes: a model is loaded, pictures are drawn, files are hashed."""
PAIR_SECONDS = 5e-4
"""Seconds to read a pair or a labelled image, decode it for a contact sheet, and write it."""
ROW_SECONDS, URL_BYTES = 2e-5, 160
"""Seconds to read and check a row of a table; memory to know a repeated URL, measured."""
METADATA_BYTES = 200
"""Bytes of metadata of a pair; assumed (115 on the demo)."""
BYTES_PER_SECOND = 5e8
OPERATIONS_PER_SECOND = {"fp32": 7e10, "bf16": 2.3e11}
"""Multiplications and additions of a core in a product of matrices, by type; like all rates of an
index by `benchmarks.retrieval` on an AMD EPYC with bf16 instructions.
"""
KMEANS_OPERATIONS = 64 * 10 * 2
"""Per cell, cell and dimension: 64 rows a cell are compared with every cell in 10 rounds."""
CELLS_ADDED_PER_SECOND, GRAPH_ROWS_PER_SECOND = 2_532 * 32_768, 1_150
"""Rows times cells that one core adds to an index without a graph; rows with one over them."""
INDEX_PASSES = 5
"""How often the bytes of an index are read or written."""
LAYERS = 12
"""Layers of a tower, of which `last_k_layers` are trained; assumed. A backward pass takes as long
as two forward ones.
"""
BATCHES = {
    "corpus_embeddings": "`embedding.batch_size`",
    "customized_checkpoint": "`customization.batch_size` / `accumulation` / `processes`",
}
"""Stages whose memory is that of a batch, on a GPU if there is one, and what decides its rows."""
REMEDIES = {
    "corpus": "download with img2dataset on a cluster and use `corpus.kind: webdataset`",
    "faiss_index": "set `index.key: auto`, or a key of shorter codes, such as "
    "OPQ64_512,IVF4096_HNSW32,PQ64x8",
}
"""What helps where a stage takes more memory than the machine has."""
_FIGURE = re.compile(r"(\d+(?:\.\d+)?)([kMGT]?)")
_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Machine:
    """What decides hours and what fits: this machine, or figures of another.

    Attributes:
        memory: Bytes.
        disk: Free bytes under `store`.
        card: Bytes of memory of each GPU; 0 if that is not known.
    """

    cores: int
    memory: int
    disk: int
    gpus: int = 0
    card: int = 0

    @classmethod
    def here(cls, store: Path, device: str = "auto") -> Self:
        """Return this machine, with the GPUs that a project with this device uses."""
        import torch
        from joblib import cpu_count

        folder = next(path for path in (store, *store.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        gpus = len(cards(device))
        card = torch.cuda.mem_get_info()[1] if gpus else 0
        return cls(cpu_count(), machine_memory_bytes(), free, gpus, card)

    def changed(self, text: str) -> Self:
        """Return a machine with other figures, such as `cores=64,memory=256G,gpus=1`.

        Raises:
            InputError: Naming what is not a figure of a machine.
        """
        figures = asdict(self)
        for part in filter(None, text.replace(" ", "").split(",")):
            name, _, value = part.partition("=")
            figure = _FIGURE.fullmatch(value)
            if name not in figures or figure is None or part == "cores=0":
                raise InputError(
                    f"--machine: {part!r}; give {', '.join(figures)} as numbers, such as 64 or "
                    "256G, and at least one core"
                )
            figures[name] = int(float(figure[1]) * _UNITS[figure[2]])
        return type(self)(**figures)


@dataclass(frozen=True)
class Step:
    """The sums of a stage over all its keys, in bytes and hours; None where the machine has no GPU.

    `built` says that all its artifacts are there, made from today's inputs.
    """

    stage: str
    amount: str
    disk: float
    memory: float
    cpu_hours: float
    gpu_hours: float | None
    built: bool


@dataclass(frozen=True)
class Plan:
    """The steps, and what will not fit, with the setting that helps."""

    rows: int
    steps: list[Step]
    problems: list[str]


def make_plan(project: Project, machine: Machine, rows: int | None = None) -> Plan:
    """Estimate every step of a configuration.

    Args:
        rows: Of the corpus; None: as published, or as its files say.

    Raises:
        InputError: If the number of rows is not known.
    """
    look = Manifests.of(project)
    corpus = project.config.corpus
    size = CorpusSize(rows, corpus.assumed_pair_bytes) if rows else corpus_size(look)
    sums = Sums(look, machine, size)
    steps = sums.steps()
    due = [step for step in steps if rows or not step.built]
    done = {step.stage for step in steps} - {step.stage for step in due}
    problems = [one for one in sums.problems if one.partition(":")[0] not in done]
    if (needed := sum(step.disk for step in due)) > machine.disk:
        problems.append(
            f"disk: {needed / 1e9:,.0f} GB are needed, {machine.disk / 1e9:,.0f} GB are free: "
            "set `store` to a larger disk, `corpus.download.image_size: 256`, or "
            "`index.memory_gib` for a smaller index"
        )
    for step in due:
        if step.memory > machine.memory and step.stage in REMEDIES:
            problems.append(
                f"{step.stage}: {step.memory / 1e9:,.1f} GB of memory are needed, "
                f"{machine.memory / 1e9:,.1f} GB are available: {REMEDIES[step.stage]}"
            )
    return Plan(sums.corpus.pairs, steps, problems)


def corpus_size(project: Project) -> CorpusSize:
    """Return the size of a corpus as published from today's configuration, or as its files say."""
    corpus = project.config.corpus
    if not corpus.is_listed or corpus.fetches_images:  # else the artifact holds no image
        with suppress(ReactError):
            published = fresh_or_none(project, CORPUS, ALL)
            if published and (pairs := count_pairs(published)):
                each = corpus.assumed_pair_bytes
                return CorpusSize(
                    pairs, each if corpus.fetches_images else published.counts["bytes"] / pairs
                )
    return corpus.size()


class PlannedDomain(NamedTuple):
    """How many classes, prompts, pairs and labelled images a domain has."""

    classes: int
    prompts: int
    pairs: int
    images: int


class Sums:
    """What every stage's sum needs.

    Attributes:
        project, machine, corpus: What is planned, on what, with how many pairs.
        keys: By stage, the keys of its artifacts.
        domains: By slug, what decides the costs of a domain.
        encoder, retrieval: What the encoders cost here: the one that is customized, and the one
            that retrieves.
        index_key: The key of the index that fits the machine.
        problems: What does not fit.
    """

    def __init__(self, project: Project, machine: Machine, corpus: CorpusSize) -> None:
        """Count what a configuration has."""
        self.project, self.machine, self.corpus = project, machine, corpus
        self.problems: list[str] = []
        self.settings = config = project.config
        self.encoder = self.retrieval = EncoderCost(project, config.encoder, "base_checkpoint")
        if config.two_encoders:
            self.retrieval = EncoderCost(project, config.retrieves_with, RETRIEVAL_CHECKPOINT)
        domains = load_domains(config.domains)[0]
        self.keys = {
            name: row.keys(domains, config.methods, config.two_encoders, config.all_methods)
            for name, row in STAGES.items()
        }
        self.domains = {}
        for slug, domain in domains.items():
            names = sum(1 + len(entry.synonyms) for entry in domain.classes)
            self.domains[slug] = PlannedDomain(
                len(domain.classes),
                names * len(prompt_templates(domain)),
                most_pairs(project, slug, corpus.pairs),
                count_images(domain),
            )
        self.index_key = self._fitting_key()

    def _fitting_key(self) -> Key:
        index, memory = self.settings.index, self.machine.memory
        limit = int((index.memory_gib or 0) * 2**30)
        limit = limit or (memory // 2 if index.key == "auto" else memory)
        try:
            text, _ = choose_key(index, self.corpus.pairs, self.retrieval.dimension, limit)
        except InputError as error:
            self.problems.append(str(error))
            text = index.key
        return Key.parse(text)

    def steps(self) -> list[Step]:
        """Estimate each stage, without those that no configured method needs."""
        return [estimate(self) for stage, estimate in ESTIMATES.items() if self.keys[stage]]

    def step(
        self,
        stage: str,
        amount: str,
        *,
        images: float = 0,
        texts: float = 0,
        passes: float = 0,
        shared: float = 0,
        alone: float = 0,
        disk: float = 0,
        memory: float = 0,
        cards: int = 1,
    ) -> Step:
        """Sum the hours of a stage.

        Args:
            images: How many are decoded and encoded.
            texts: How many are encoded.
            passes: Further passes through the image tower.
            shared: Seconds of a core for work that all cores share.
            alone: Seconds of work that one core does.
            cards: GPUs that the stage can use at once.
        """
        is_own = stage in ("customized_checkpoint", "domain_results")
        encoder = self.encoder if is_own else self.retrieval
        cores, gpus, keys = self.machine.cores, self.machine.gpus, self.keys[stage]
        towers = gpu = 0.0
        if images or texts:
            encoding = encoder.encoding
            towers = (images + passes) * encoding.image + texts * encoding.text
            shared += images * encoding.prepare
            gpu = towers * encoder.gpu_share
        rest = shared / cores + alone + START_SECONDS * len(keys)
        gpu_hours = (gpu / min(gpus, cards) + rest) / 3_600 if gpus else None
        built = all(fresh_or_none(self.project, stage, key) for key in keys)
        cpu_hours = (towers / cores + rest) / 3_600
        return Step(stage, amount, disk, memory, cpu_hours, gpu_hours, built)

    def batch_memory(self, stage: str, fixed: float, rows: int, row_bytes: float) -> float:
        """Return the bytes of a batch of some rows and of what is there beside it; note what does
        not fit.
        """
        machine = self.machine
        limit = machine.card if machine.gpus else machine.memory
        if limit and fixed + rows * row_bytes > limit:
            fits = max(0, int((limit - fixed) / max(row_bytes, 1)))
            self.problems.append(
                f"{stage}: {rows:,} rows at once need {row_bytes:,.0f} bytes each and "
                f"{fixed / 1e9:,.1f} GB in addition, {limit / 1e9:,.1f} GB are available: at most "
                f"{fits:,} rows fit ({BATCHES[stage]})"
            )
        return fixed + rows * row_bytes

    def precision(self, configured: str) -> str:
        """Return the precision that `auto` takes; today's GPUs take bf16."""
        on_gpu = configured == "auto" and self.machine.gpus
        return "bf16" if on_gpu else choose_precision(configured, "cpu")

    def fetching_seconds(self, urls: float, rounds: int = 1) -> float:
        """Return the seconds of downloads."""
        processes = min(self.settings.corpus.downloads().processes, self.machine.cores)
        return rounds * DOWNLOADER_SECONDS + urls / URLS_PER_CORE_SECOND / processes


def _corpus(sums: Sums) -> Step:
    corpus, (rows, pair_bytes) = sums.settings.corpus, sums.corpus
    if corpus.has_vectors:  # read for their digests, and for their values
        size, seconds = 0.0, 8.0 * sums.retrieval.dimension * rows / BYTES_PER_SECOND
    else:
        size = 0.0 if corpus.is_listed else rows * pair_bytes
        # A copy is read, written, and read again for its digest.
        seconds = (3 if corpus.is_copy else 1) * size / BYTES_PER_SECOND
    checked = rows if corpus.fetches_images else 0
    return sums.step(
        "corpus",
        f"{rows:,} pairs",
        alone=seconds + checked * ROW_SECONDS,
        disk=size if corpus.is_copy else 0,
        memory=URL_BYTES * checked if corpus.is_listed else 0,
    )


def _checkpoint(stage: str, sums: Sums) -> Step:
    encoder = sums.retrieval if stage == RETRIEVAL_CHECKPOINT else sums.encoder
    size = encoder.weights_bytes
    seconds = 3 * size / BYTES_PER_SECOND
    return sums.step(stage, f"{size / 4e6:,.0f} M weights", alone=seconds, disk=size)


def _embeddings(sums: Sums) -> Step:
    rows, corpus = sums.corpus.pairs, sums.settings.corpus
    waits = sums.settings.images_wait
    images = 0 if waits or corpus.has_vectors else rows
    fetches = images and corpus.is_listed and corpus.fetches_images
    row_bytes = (2 if waits else 4) * sums.retrieval.dimension + METADATA_BYTES
    memory, embedding = 0.0, sums.settings.embedding
    if corpus.encodes_captions:
        each, _ = sums.retrieval.row_bytes(sums.precision(embedding.precision), images=images > 0)
        at_once = embedding.batch_size if sums.machine.gpus else CPU_IMAGES
        fixed = 1.5 * sums.retrieval.weights_bytes  # and their copies in half precision
        memory = sums.batch_memory("corpus_embeddings", fixed, at_once, each)
    return sums.step(
        "corpus_embeddings",
        f"{rows:,} {'captions' if waits else 'pairs'}",
        images=images,
        texts=rows if corpus.encodes_captions else 0,
        alone=sums.fetching_seconds(images) if fetches else 0,
        disk=rows * row_bytes,
        memory=memory,
        # Shards are spread over the cards; the parts of other corpora come one after another.
        cards=1 if corpus.is_listed or corpus.has_vectors else sums.machine.gpus,
    )


def _index(sums: Sums) -> Step:
    """Sum training, adding, the exact search that measures recall, and moving bytes."""
    if sums.settings.corpus.ready_indices is not None:
        return sums.step("faiss_index", "ready")
    key, width, rows = sums.index_key, sums.retrieval.dimension, sums.corpus.pairs
    sides = 1 if sums.settings.images_wait else 2
    size = key.bytes(rows, width)
    sample = 4 * width * min(key.sample_rows if key.trains else 0, rows)
    products = KMEANS_OPERATIONS * key.cells**2 * width
    products += 4 * sums.settings.index.recall_queries * rows * width
    seconds = products / OPERATIONS_PER_SECOND["fp32"] + rows * key.cells / CELLS_ADDED_PER_SECOND
    if key.links and not key.cell_links:
        seconds += rows / GRAPH_ROWS_PER_SECOND
    return sums.step(
        "faiss_index",
        key.text,
        shared=sides * seconds,
        alone=INDEX_PASSES * sides * size / BYTES_PER_SECOND,
        disk=sides * size,
        memory=size + sample,
    )


def _evaluation_sets(sums: Sums) -> Step:
    images = sum(domain.images for domain in sums.domains.values())
    return sums.step("evaluation_set", f"{images:,} images", alone=images * PAIR_SECONDS)


def _pairs(stage: str, sums: Sums) -> Step:
    """Sum the work of comparing with evaluation images, searching prompts (not for a control), and
    collecting pairs.
    """
    settings, corpus, domains = sums.settings, sums.settings.corpus, sums.domains.values()
    retrieves = stage == "retrieved_set"
    draws = 1 if retrieves else max(len(settings.seeds), 1)
    pairs = draws * sum(domain.pairs for domain in domains)
    images = sum(domain.images for domain in domains) + (pairs if settings.images_wait else 0)
    alone = pairs * PAIR_SECONDS + (_search_seconds(sums) if retrieves else 0)
    if corpus.fetches_images and (settings.images_wait or not corpus.is_listed):
        for domain in domains:
            asked = min(domain.pairs / ALIVE, sums.corpus.pairs)
            alone += draws * sums.fetching_seconds(asked, 1 + REFILL_ROUNDS)
    return sums.step(
        stage,
        f"{pairs:,} pairs at most",
        images=images,
        texts=sum(domain.prompts for domain in domains) if retrieves else 0,
        alone=alone,
        disk=pairs * min(sums.corpus.pair_bytes, CorpusConfig.assumed_pair_bytes),
    )


def _search_seconds(sums: Sums) -> float:
    """Return the seconds of comparing all prompts with all rows, which they share the reading of:
    an index takes less.
    """
    rows, width = sums.corpus.pairs, sums.retrieval.dimension
    compared = read = 0.0
    for slug, domain in sums.domains.items():
        settings = sums.project.retrieval(slug)
        if settings.choose == "nearest":
            rate = OPERATIONS_PER_SECOND[product_precision(domain.prompts, "cpu")]
            compared += len(settings.modes) * 2.0 * domain.prompts * rows * width / rate
            read = max(read, len(settings.modes) * 2.0 * rows * width)
    return compared / sums.machine.cores + read / BYTES_PER_SECOND


def _trainings(sums: Sums) -> Step:
    texts = images = seen = disk = 0
    passes, cards = 0.0, 1
    batches: dict[str, Any] = {}
    for slug, name in (key.split("/") for key in sums.keys["customized_checkpoint"]):
        domain, method = sums.domains[slug], sums.project.method(name)
        training = sums.project.training(slug, name)
        many = method.images(training, partial(int, domain.pairs))
        seen += many
        texts += domain.prompts
        if method.has_model:
            share = min(training.last_k_layers / LAYERS, 1)
            # The output of what is frozen is kept where images stay the same.
            kept = training.keep_prefix and training.augmentation == "none"
            images += domain.pairs if kept else many
            cards = max(cards, training.processes)
            passes += (3 if kept else 2) * share * many
            texts += domain.pairs
            disk += int(sums.encoder.weights_bytes)
            batches[f"{name.removesuffix('-control')} {training!r}"] = method, training
        else:  # a head, on vectors that are there
            disk += 8 * sums.encoder.dimension * domain.classes
    amount = f"{seen:,} images in all steps"
    stage = "customized_checkpoint"
    memory = max((_step_memory(sums, *one) for one in batches.values()), default=0)
    return sums.step(
        stage,
        amount,
        images=images,
        passes=passes,
        texts=texts,
        disk=disk,
        cards=cards,
        memory=memory,
    )


def _step_memory(sums: Sums, method: ModelMethod, training: TrainingConfig) -> float:
    """Return the bytes of a step: weights, what those that train need beside, and a part of a
    batch.
    """
    each, numbers = sums.encoder.row_bytes(sums.precision(training.precision), method, training)
    if not each:
        return 0  # not counted
    part = math.ceil(training.batch_size / training.processes / training.accumulation)
    fixed = sums.encoder.weights_bytes + STATE_BYTES * numbers
    return sums.batch_memory("customized_checkpoint", fixed, part, each)


def _results(sums: Sums) -> Step:
    texts = images = 0
    for slug, method in (key.split("/") for key in sums.keys["domain_results"]):
        images += sums.domains[slug].images
        texts += sums.domains[slug].prompts if sums.project.method(method).has_model else 0
    return sums.step("domain_results", f"{images:,} images", images=images, texts=texts)


ESTIMATES: dict[str, Callable[[Sums], Step]] = {
    "corpus": _corpus,
    "base_checkpoint": partial(_checkpoint, "base_checkpoint"),
    RETRIEVAL_CHECKPOINT: partial(_checkpoint, RETRIEVAL_CHECKPOINT),
    "corpus_embeddings": _embeddings,
    "faiss_index": _index,
    "evaluation_set": _evaluation_sets,
    "retrieved_set": partial(_pairs, "retrieved_set"),
    "control_set": partial(_pairs, "control_set"),
    "customized_checkpoint": _trainings,
    "domain_results": _results,
}
