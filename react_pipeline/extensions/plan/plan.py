"""The plan of a project: what each step will need on a machine, before anything runs, and what will
not fit.

Rows times the cost of one, bytes of vectors and keys, downloads at a rate. Does not belong here:
what an image or a caption costs (`encoder_cost`), printing (`commands`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from react_pipeline.clip import choose_precision, class_prompts
from react_pipeline.corpus import CorpusSize, count_pairs
from react_pipeline.embedding import CPU_IMAGES
from react_pipeline.extensions.plan.encoder_cost import Batch, EncoderCost, encoder_cost
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.sources import ALIVE, DOWNLOADER_SECONDS, URLS_PER_CORE_SECOND
from react_pipeline.indexing import Key, choose_key, product_precision
from react_pipeline.labelled import count_images
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Manifests, Project
from react_pipeline.retrieval import REFILL_ROUNDS, most_pairs
from react_pipeline.settings import CONTROL_SUFFIX, CorpusConfig, load_domains
from react_pipeline.stage import (
    ALL,
    BASE_CHECKPOINT,
    CONTROL_SET,
    CORPUS,
    CORPUS_EMBEDDINGS,
    CUSTOMIZED_CHECKPOINT,
    DOMAIN_RESULTS,
    EVALUATION_SET,
    FAISS_INDEX,
    RETRIEVAL_CHECKPOINT,
    RETRIEVED_SET,
    STAGES,
    left_out_stages,
)
from react_pipeline.store import ReactError
from react_pipeline.training import ModelMethod

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
REMEDIES = {
    "corpus": "download with img2dataset on a cluster and use `corpus.kind: webdataset`",
    "corpus_embeddings": "lower `embedding.batch_size`",
    "customized_checkpoint": "lower `customization.batch_size`, or raise `accumulation` or "
    "`processes`",
    "faiss_index": "set `index.key: auto`, or a key of shorter codes, such as "
    "OPQ64_512,IVF4096_HNSW32,PQ64x8",
}
"""Remedies by stage, where it takes more memory than the machine or a GPU has."""


class Work(NamedTuple):
    """The work of a stage, over all its keys.

    Attributes:
        amount: In words.
        disk, memory: Bytes, without those of `batch`.
        images, texts: How many are decoded and encoded.
        passes: Further passes through the image tower.
        shared, alone: Seconds of a core: for work that all cores share, and that one core does.
        batch: What takes the memory of a stage that encodes or trains.
        cards: GPUs that the stage can use at once.
    """

    amount: str
    disk: float = 0
    memory: float = 0
    images: float = 0
    texts: float = 0
    passes: float = 0
    shared: float = 0
    alone: float = 0
    batch: Batch | None = None
    cards: int = 1


class Step(NamedTuple):
    """The sums of a stage, in bytes and hours; None where the machine has no GPU.

    `memory` is of a GPU, if there is one, where the work has a batch. `built` says that all its
    artifacts are there, made from today's inputs.
    """

    stage: str
    work: Work
    memory: float
    cpu_hours: float
    gpu_hours: float | None
    built: bool


class Plan(NamedTuple):
    """The steps, and what will not fit, with the setting that helps."""

    rows: int
    steps: list[Step]
    problems: list[str]


def make_plan(project: Project, machine: Machine, rows: int | None = None) -> Plan:
    """Estimate every step of a configuration.

    Args:
        rows: Of the corpus; None: as published, or as its files say.

    Raises:
        InputError: If the number of rows is not known, or `index.key` does not fit the vectors.
    """
    look = Manifests.of(project)
    size = CorpusSize(rows, look.config.corpus.assumed_pair_bytes) if rows else corpus_size(look)
    steps = Estimates(look, machine, size).steps()
    due = [step for step in steps if rows or not step.built]
    problems = []
    if (needed := sum(step.work.disk for step in due)) > machine.disk:
        problems.append(
            f"disk: {needed / 1e9:,.0f} GB are needed, {machine.disk / 1e9:,.0f} GB are free: "
            "set `store` to a larger disk, `corpus.download.image_size: 256`, or "
            "`index.memory_gib` for a smaller index"
        )
    for step in due:
        limit = machine.card if step.work.batch and machine.gpus else machine.memory
        if limit and step.memory > limit:
            problems.append(
                f"{step.stage}: {step.memory / 1e9:,.1f} GB of memory are needed"
                f"{_too_many(step.work.batch, limit)}, {limit / 1e9:,.1f} GB are available: "
                f"{REMEDIES[step.stage]}"
            )
    return Plan(size.pairs, steps, problems)


def _too_many(batch: Batch | None, limit: int) -> str:
    if batch is None:
        return ""
    fits = max(0, int((limit - batch.fixed_bytes) / max(batch.row_bytes, 1)))
    return f" by {batch.rows:,} rows at once, of which at most {fits:,} fit"


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


class Estimates:
    """The work of each stage.

    Attributes:
        project, machine, corpus: What is planned, on what, with how many pairs.
        keys: By stage, the keys of its artifacts.
        prompts, pairs, images: By slug of a domain, how many it has; `images` are labelled.
        encoder, retrieval: What the encoders cost here: the one that is customized, and the one
            that retrieves.
    """

    def __init__(self, project: Project, machine: Machine, corpus: CorpusSize) -> None:
        """Count what a configuration has."""
        self.project, self.machine, self.corpus = project, machine, corpus
        self.config = config = project.config
        self.encoder = self.retrieval = encoder_cost(project, config.encoder, BASE_CHECKPOINT)
        if config.two_encoders:
            self.retrieval = encoder_cost(project, config.retrieves_with, RETRIEVAL_CHECKPOINT)
        domains = load_domains(config.domains)[0]
        left_out = left_out_stages(config)
        self.keys = {
            name: [] if name in left_out else row.keys(domains, config.measured)
            for name, row in STAGES.items()
        }
        self.prompts = {slug: len(class_prompts(one)) for slug, one in domains.items()}
        self.pairs = {slug: most_pairs(project, slug, corpus.pairs) for slug in domains}
        self.images = {slug: count_images(domain) for slug, domain in domains.items()}

    def steps(self) -> list[Step]:
        """Estimate each stage, without those that no configured method needs."""
        works: dict[str, Callable[[], Work]] = {
            CORPUS: self._corpus,
            BASE_CHECKPOINT: lambda: self._checkpoint(self.encoder),
            RETRIEVAL_CHECKPOINT: lambda: self._checkpoint(self.retrieval),
            CORPUS_EMBEDDINGS: self._embeddings,
            FAISS_INDEX: self._index,
            EVALUATION_SET: self._labelled,
            RETRIEVED_SET: self._retrieved,
            CONTROL_SET: lambda: self._pairs(max(len(self.config.seeds), 1)),
            CUSTOMIZED_CHECKPOINT: self._trainings,
            DOMAIN_RESULTS: self._results,
        }
        return [self._step(stage, work()) for stage, work in works.items() if self.keys[stage]]

    def _step(self, stage: str, work: Work) -> Step:
        """Sum the hours of a stage."""
        is_own = stage in (CUSTOMIZED_CHECKPOINT, DOMAIN_RESULTS)
        encoder = self.encoder if is_own else self.retrieval
        cores, gpus, keys = self.machine.cores, self.machine.gpus, self.keys[stage]
        towers = (work.images + work.passes) * encoder.image + work.texts * encoder.text
        rest = (work.shared + work.images * encoder.prepare) / cores
        rest += work.alone + START_SECONDS * len(keys)
        gpu_hours = None
        if gpus:
            gpu_hours = (towers * encoder.gpu_share / min(gpus, work.cards) + rest) / 3_600
        built = all(fresh_or_none(self.project, stage, key) for key in keys)
        memory = work.memory + (work.batch.memory if work.batch else 0)
        cpu_hours = (towers / cores + rest) / 3_600
        return Step(stage, work, memory, cpu_hours, gpu_hours, built)

    @property
    def _ready_bytes(self) -> float:
        """Return the bytes of the vectors that are there already."""
        return 4.0 * self.retrieval.dimension * self.corpus.pairs * self.config.corpus.has_vectors

    def _corpus(self) -> Work:
        corpus, (rows, pair_bytes) = self.config.corpus, self.corpus
        checked = rows if corpus.fetches_images else 0
        if corpus.has_vectors:  # read for their digests
            size, moved = 0.0, self._ready_bytes
        else:
            size = 0.0 if corpus.is_listed else rows * pair_bytes
            moved = (3 if corpus.is_copy else 1) * size  # a copy is read again for its digest
        return Work(
            f"{rows:,} pairs",
            disk=size if corpus.is_copy else 0,
            memory=URL_BYTES * checked if corpus.is_listed else 0,
            alone=moved / BYTES_PER_SECOND + checked * ROW_SECONDS,
        )

    def _checkpoint(self, encoder: EncoderCost) -> Work:
        size = encoder.weights_bytes
        amount = f"{size / 4e6:,.0f} M weights"
        return Work(amount, disk=size, alone=3 * size / BYTES_PER_SECOND)

    def _embeddings(self) -> Work:
        rows, corpus, embedding = self.corpus.pairs, self.config.corpus, self.config.embedding
        waits = self.config.images_wait
        images = 0 if waits or corpus.has_vectors else rows
        sides = int(corpus.encodes_captions) if corpus.links_vectors else 1 if waits else 2
        batch = None
        if images or corpus.encodes_captions:
            at_once = embedding.batch_size if self.machine.gpus else CPU_IMAGES
            precision = self._precision(embedding.precision)
            batch = self.retrieval.batch(at_once, precision, images=images > 0)
        fetches = images and corpus.is_listed and corpus.fetches_images
        return Work(
            f"{rows:,} {'captions' if waits else 'pairs'}",
            disk=rows * (2 * sides * self.retrieval.dimension + METADATA_BYTES),
            images=images,
            texts=rows if corpus.encodes_captions else 0,
            # Ready vectors are read for their values.
            alone=self._ready_bytes / BYTES_PER_SECOND
            + (self._fetching_seconds(images) if fetches else 0),
            batch=batch,
            # Shards are spread over the cards; the parts of other corpora come one after another.
            cards=1 if corpus.is_listed or corpus.has_vectors else self.machine.gpus,
        )

    def _index(self) -> Work:
        """Sum training, adding, the exact search that measures recall, and moving bytes."""
        index, width, rows = self.config.index, self.retrieval.dimension, self.corpus.pairs
        if self.config.corpus.ready_indices is not None:
            return Work("ready")
        limit = int((index.memory_gib or 0) * 2**30) or self.machine.memory // 2
        key = Key.parse(choose_key(index, rows, width, limit)[0])
        sides = 1 if self.config.images_wait else 2
        size = key.bytes(rows, width)
        products = (
            KMEANS_OPERATIONS * key.cells**2 * width + 4 * index.recall_queries * rows * width
        )
        seconds = products / OPERATIONS_PER_SECOND["fp32"]
        seconds += rows * key.cells / CELLS_ADDED_PER_SECOND
        if key.links and not key.cell_links:
            seconds += rows / GRAPH_ROWS_PER_SECOND
        return Work(
            key.text,
            disk=sides * size,
            memory=size + 4 * width * min(key.sample_rows if key.trains else 0, rows),
            shared=sides * seconds,
            alone=INDEX_PASSES * sides * size / BYTES_PER_SECOND,
        )

    def _labelled(self) -> Work:
        images = sum(self.images.values())
        return Work(f"{images:,} images", alone=images * PAIR_SECONDS)

    def _pairs(self, draws: int) -> Work:
        """Sum comparing with evaluation images, and collecting pairs, so many times."""
        corpus, waits = self.config.corpus, self.config.images_wait
        pairs = draws * sum(self.pairs.values())
        alone = pairs * PAIR_SECONDS
        if corpus.fetches_images and (waits or not corpus.is_listed):
            for most in self.pairs.values():
                asked = min(most / ALIVE, self.corpus.pairs)
                alone += draws * self._fetching_seconds(asked, 1 + REFILL_ROUNDS)
        return Work(
            f"{pairs:,} pairs at most",
            disk=pairs * min(self.corpus.pair_bytes, CorpusConfig.assumed_pair_bytes),
            images=sum(self.images.values()) + (pairs if waits else 0),
            alone=alone,
        )

    def _retrieved(self) -> Work:
        """Also compare all prompts with all rows, which they share the reading of: an index takes
        less.
        """
        rows, width, work = self.corpus.pairs, self.retrieval.dimension, self._pairs(1)
        compared = read = 0.0
        for slug, prompts in self.prompts.items():
            settings = self.project.retrieval(slug)
            if settings.choose == "nearest":
                rate = OPERATIONS_PER_SECOND[product_precision(prompts, "cpu")]
                moved = len(settings.modes) * 2.0 * rows * width
                compared += prompts * moved / rate
                read = max(read, moved)
        return work._replace(
            texts=sum(self.prompts.values()),
            shared=compared,
            alone=work.alone + read / BYTES_PER_SECOND,
        )

    def _trainings(self) -> Work:
        texts = images = seen = models = 0
        passes, cards = 0.0, 1
        batches: dict[str, Batch] = {}
        for slug, name in self._methods(CUSTOMIZED_CHECKPOINT):
            pairs, method = self.pairs[slug], self.project.method(name)
            training = self.project.training(slug, name)
            many = method.images(training, int(pairs))
            seen += many
            texts += self.prompts[slug]
            if not isinstance(method, ModelMethod):
                continue  # a head is small, and learns from vectors that are there
            # The output of what is frozen is kept where images stay the same.
            kept = training.keep_prefix and training.augmentation == "none"
            images += pairs if kept else many
            passes += (3 if kept else 2) * min(training.last_k_layers / LAYERS, 1) * many
            texts += pairs * self.config.two_encoders
            models += 1
            cards = max(cards, training.processes)
            alike = f"{name.removesuffix(CONTROL_SUFFIX)} {training!r}"
            if alike not in batches:
                part = math.ceil(training.batch_size / training.processes / training.accumulation)
                precision = self._precision(training.precision)
                batches[alike] = self.encoder.batch(part, precision, method, training)
        return Work(
            f"{seen:,} images in all steps",
            disk=models * self.encoder.weights_bytes,
            images=images,
            texts=texts,
            passes=passes,
            batch=max(batches.values(), key=lambda batch: batch.memory, default=None),
            cards=cards,
        )

    def _results(self) -> Work:
        texts = images = 0
        for slug, method in self._methods(DOMAIN_RESULTS):
            images += self.images[slug]
            texts += self.prompts[slug] if self.project.method(method).has_model else 0
        return Work(f"{images:,} images", images=images, texts=texts)

    def _methods(self, stage: str) -> list[list[str]]:
        """Return domain and method of each artifact."""
        return [key.split("/") for key in self.keys[stage]]

    def _precision(self, configured: str) -> str:
        """Return the precision that `auto` takes; today's GPUs take bf16."""
        on_gpu = configured == "auto" and self.machine.gpus
        return "bf16" if on_gpu else choose_precision(configured, "cpu")

    def _fetching_seconds(self, urls: float, rounds: int = 1) -> float:
        processes = min(self.config.corpus.downloads().processes, self.machine.cores)
        return rounds * DOWNLOADER_SECONDS + urls / URLS_PER_CORE_SECOND / processes
