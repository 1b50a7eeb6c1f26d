"""Estimates: what the step of each stage needs, from what a project has.

Rows times the cost of one, bytes of vectors and keys, downloads at a rate. Does not belong here:
what an image or a caption costs (`encoder_cost`), what fits (`plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from react_pipeline.clip import choose_precision, prompt_templates
from react_pipeline.corpus import CorpusSize
from react_pipeline.embedding import CPU_IMAGES
from react_pipeline.extensions.plan.encoder_cost import Batch, encoder_cost
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.sources import ALIVE, DOWNLOADER_SECONDS, URLS_PER_CORE_SECOND
from react_pipeline.indexing import Key, choose_key, product_precision
from react_pipeline.labelled import count_images
from react_pipeline.lineage import fresh_or_none
from react_pipeline.project import Project
from react_pipeline.retrieval import REFILL_ROUNDS, most_pairs
from react_pipeline.settings import CONTROL_SUFFIX, CorpusConfig, load_domains
from react_pipeline.stage import RETRIEVAL_CHECKPOINT, STAGES, left_out_stages
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


class Step(NamedTuple):
    """The sums of a stage over all its keys, in bytes and hours; None where the machine has no GPU.

    `batch` is what takes the memory of a stage that encodes or trains: of a GPU, if there is one.
    `built` says that all its artifacts are there, made from today's inputs.
    """

    stage: str
    amount: str
    disk: float
    memory: float
    cpu_hours: float
    gpu_hours: float | None
    built: bool
    batch: Batch | None


class PlannedDomain(NamedTuple):
    """How many prompts, pairs and labelled images a domain has."""

    prompts: int
    pairs: int
    images: int


class Sums:
    """Inputs of the estimates of all stages.

    Attributes:
        project, machine, corpus: What is planned, on what, with how many pairs.
        keys: By stage, the keys of its artifacts.
        domains: By slug, what decides the costs of a domain.
        encoder, retrieval: What the encoders cost here: the one that is customized, and the one
            that retrieves.
        index_key: The key of the index that fits the machine.
    """

    def __init__(self, project: Project, machine: Machine, corpus: CorpusSize) -> None:
        """Count what a configuration has."""
        self.project, self.machine, self.corpus = project, machine, corpus
        self.settings = config = project.config
        self.encoder = self.retrieval = encoder_cost(project, config.encoder, "base_checkpoint")
        if config.two_encoders:
            self.retrieval = encoder_cost(project, config.retrieves_with, RETRIEVAL_CHECKPOINT)
        width = self.retrieval.dimension
        domains = load_domains(config.domains)[0]
        self.keys = {
            name: row.keys(domains, config.measured)
            for name, row in STAGES.items()
            if name not in left_out_stages(config)
        }
        self.domains = {
            slug: PlannedDomain(
                sum(1 + len(entry.synonyms) for entry in domain.classes)
                * len(prompt_templates(domain)),
                most_pairs(project, slug, corpus.pairs),
                count_images(domain),
            )
            for slug, domain in domains.items()
        }
        limit = int((config.index.memory_gib or 0) * 2**30) or machine.memory // 2
        self.index_key = Key.parse(choose_key(config.index, corpus.pairs, width, limit)[0])

    def steps(self) -> list[Step]:
        """Estimate each stage, without those that no configured method needs."""
        return [estimate(self) for stage, estimate in ESTIMATES.items() if self.keys.get(stage)]

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
        batch: Batch | None = None,
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
        towers = (images + passes) * encoder.image + texts * encoder.text
        shared += images * encoder.prepare
        rest = shared / cores + alone + START_SECONDS * len(keys)
        gpu_hours = None
        if gpus:
            gpu_hours = (towers * encoder.gpu_share / min(gpus, cards) + rest) / 3_600
        built = all(fresh_or_none(self.project, stage, key) for key in keys)
        memory += batch.memory if batch else 0
        cpu_hours = (towers / cores + rest) / 3_600
        return Step(stage, amount, disk, memory, cpu_hours, gpu_hours, built, batch)

    def precision(self, configured: str) -> str:
        """Return the precision that `auto` takes; today's GPUs take bf16."""
        on_gpu = configured == "auto" and self.machine.gpus
        return "bf16" if on_gpu else choose_precision(configured, "cpu")

    def fetching_seconds(self, urls: float, rounds: int = 1) -> float:
        """Return the seconds of downloads."""
        processes = min(self.settings.corpus.downloads().processes, self.machine.cores)
        return rounds * DOWNLOADER_SECONDS + urls / URLS_PER_CORE_SECOND / processes

    @property
    def vectors_seconds(self) -> float:
        """Return the seconds to read the vectors that are there already."""
        size = 4.0 * self.retrieval.dimension * self.corpus.pairs
        return size / BYTES_PER_SECOND if self.settings.corpus.has_vectors else 0.0


def _corpus(sums: Sums) -> Step:
    corpus, (rows, pair_bytes) = sums.settings.corpus, sums.corpus
    if corpus.has_vectors:  # read for their digests
        size, seconds = 0.0, sums.vectors_seconds
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
    sides = int(corpus.encodes_captions) if corpus.links_vectors else 1 if waits else 2
    row_bytes = 2 * sides * sums.retrieval.dimension + METADATA_BYTES
    batch, embedding = None, sums.settings.embedding
    if images or corpus.encodes_captions:
        at_once = embedding.batch_size if sums.machine.gpus else CPU_IMAGES
        precision = sums.precision(embedding.precision)
        batch = sums.retrieval.batch(at_once, precision, images=images > 0)
    return sums.step(
        "corpus_embeddings",
        f"{rows:,} {'captions' if waits else 'pairs'}",
        images=images,
        texts=rows if corpus.encodes_captions else 0,
        alone=sums.vectors_seconds + (sums.fetching_seconds(images) if fetches else 0),
        disk=rows * row_bytes,
        batch=batch,
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
    texts = images = seen = models = 0
    passes, cards = 0.0, 1
    batches: dict[str, Batch] = {}
    for slug, name in (key.split("/") for key in sums.keys["customized_checkpoint"]):
        domain, method = sums.domains[slug], sums.project.method(name)
        training = sums.project.training(slug, name)
        many = method.images(training, partial(int, domain.pairs))
        seen += many
        texts += domain.prompts
        if isinstance(
            method, ModelMethod
        ):  # a head is small, and learns from vectors that are there
            # The output of what is frozen is kept where images stay the same.
            kept = training.keep_prefix and training.augmentation == "none"
            images += domain.pairs if kept else many
            passes += (3 if kept else 2) * min(training.last_k_layers / LAYERS, 1) * many
            texts += domain.pairs
            models += 1
            cards = max(cards, training.processes)
            alike = f"{name.removesuffix(CONTROL_SUFFIX)} {training!r}"
            if alike not in batches:
                part = math.ceil(training.batch_size / training.processes / training.accumulation)
                precision = sums.precision(training.precision)
                batches[alike] = sums.encoder.batch(part, precision, method, training)
    return sums.step(
        "customized_checkpoint",
        f"{seen:,} images in all steps",
        images=images,
        passes=passes,
        texts=texts,
        disk=models * sums.encoder.weights_bytes,
        batch=max(batches.values(), key=lambda batch: batch.memory, default=None),
        cards=cards,
    )


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
