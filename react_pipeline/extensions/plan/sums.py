"""The sums of a configuration on a machine, stage by stage: rows times the cost of one, bytes of
vectors and keys, downloads at a rate.

Does not belong here: what an image, a caption or a training step costs (`encoder_cost`), what will
not fit and what was measured (`plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from react_pipeline.clip import prompt_templates
from react_pipeline.corpus import CorpusSize
from react_pipeline.extensions.plan.encoder_cost import EncoderCost
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.sources import ALIVE, DOWNLOADER_SECONDS, URLS_PER_CORE_SECOND
from react_pipeline.indexing import Key, choose_key, choose_way, product_precision
from react_pipeline.labelled import count_images
from react_pipeline.project import Project
from react_pipeline.retrieval import REFILL_ROUNDS, most_pairs
from react_pipeline.settings import CorpusConfig, encoders, load_domains
from react_pipeline.stage import RETRIEVAL_CHECKPOINT, STAGES
from react_pipeline.store import InputError
from react_pipeline.training import ModelMethod

START_SECONDS = 0.5
"""Of every artifact: its model is loaded, its pictures are drawn, its files are hashed."""
PAIR_SECONDS = 5e-4
"""Of a pair, or a labelled image, that is read, decoded for a contact sheet, and written."""
ROW_SECONDS = 2e-5
"""Of a row of a table that is read and checked."""
METADATA_BYTES = 200
"""Metadata of a pair; assumed (115 on the demo)."""
BYTES_PER_SECOND = 5e8
OPERATIONS_PER_SECOND = {"fp32": 7e10, "bf16": 2.3e11}
"""Multiplications and additions of a core in a product of matrices, by type; like all rates of an
index by `benchmarks.retrieval` on an AMD EPYC with bf16 instructions.
"""
KMEANS_OPERATIONS = 64 * 10 * 2
"""Per cell, cell and dimension: 64 rows a cell are compared with every cell in 10 rounds."""
CELLS_ADDED_PER_SECOND = 2_532 * 32_768
"""Rows times cells that one core adds to an index without a graph."""
ADDED_PER_SECOND, LINKS_PER_SECOND = 6_646, 1_150 * 32
"""Rows that it adds with a graph over the cells; links with a graph over the rows."""
INDEX_SHARE = 20
"""An index compares a query with one in so many rows, as tuning usually finds."""
INDEX_PASSES = 5
"""Over the bytes of an index: vectors are read for their digest and to be added; the index is
written, read for its digest, and searched.
"""
HEAD_OPERATIONS = 9.0
"""Of a linear head, per image of a step, class and dimension: within a quarter of what a Xeon with
bf16 takes for 10 to 1,000 classes.
"""


@dataclass(frozen=True)
class Step:
    """The sums of a stage over all its keys, in bytes and hours; None where the machine has no GPU.

    `measured_hours` and `measured_disk` are there once all its artifacts are, made from today's
    inputs.
    """

    stage: str
    amount: str
    disk: float = 0
    memory: float = 0
    cpu_hours: float = 0
    gpu_hours: float | None = None
    measured_hours: float | None = None
    measured_disk: int | None = None


@dataclass(frozen=True)
class PlannedDomain:
    """How many classes, prompts, prompts of the zero-shot head (`names`), pairs and labelled images
    a domain has.
    """

    classes: int
    prompts: int
    names: int
    pairs: int
    images: int


@dataclass
class Sums:
    """What every stage's sum needs.

    Attributes:
        project, machine, corpus: What is planned, on what, with how many pairs.
        keys: By stage, the keys of its artifacts.
        domains: By slug, what decides the costs of a domain.
        encoder, retrieval: What the encoders cost here: the one that is customized, and the one
            that retrieves.
        index_key: The key of the index that fits the machine.
    """

    project: Project
    machine: Machine
    corpus: CorpusSize
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = config = self.project.config
        self.encoder = self.retrieval = EncoderCost(self.project, config.encoder, "base_checkpoint")
        if config.two_encoders:
            self.retrieval = EncoderCost(self.project, config.retrieves_with, RETRIEVAL_CHECKPOINT)
        self.work = config.corpus.work(self.corpus, self.retrieval.dimension)
        configs = load_domains(config.domains)[0]
        self.keys = {
            name: row.keys(configs, config.methods, config.two_encoders, config.all_methods)
            for name, row in STAGES.items()
        }
        self.domains = {}
        for slug, domain in configs.items():
            templates = len(prompt_templates(domain))
            classes = len(domain.classes)
            names = classes + sum(len(entry.synonyms) for entry in domain.classes)
            pairs = most_pairs(self.project, slug, self.corpus.pairs)
            self.domains[slug] = PlannedDomain(
                classes, names * templates, classes * templates, pairs, count_images(domain)
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
        towers: float = 0,
        shared: float = 0,
        alone: float = 0,
        disk: float = 0,
        memory: float = 0,
    ) -> Step:
        """Sum the hours of a stage.

        Args:
            images: How many are decoded and encoded.
            texts: How many are encoded.
            towers: Seconds of a core in towers, which a GPU is faster at.
            shared: Seconds of a core for work that all cores share.
            alone: Seconds of work that one core does.
        """
        encoder = self.encoder if stage == "domain_results" else self.retrieval
        cores, gpus = self.machine.cores, self.machine.gpus
        if images or texts:
            encoding = encoder.encoding
            towers += images * encoding.image + texts * encoding.text
            shared += images * encoding.prepare
        rest = shared / cores + alone + START_SECONDS * len(self.keys[stage])
        gpu_hours = (towers * encoder.gpu_share / gpus + rest) / 3_600 if gpus else None
        return Step(stage, amount, disk, memory, (towers / cores + rest) / 3_600, gpu_hours)

    def fetching_seconds(self, urls: float, rounds: int = 1) -> float:
        """Return the seconds of downloads."""
        processes = min(self.settings.corpus.access()[1].processes, self.machine.cores)
        return rounds * DOWNLOADER_SECONDS + urls / URLS_PER_CORE_SECOND / processes


def _corpus(sums: Sums) -> Step:
    work = sums.work
    seconds = work.read_bytes / BYTES_PER_SECOND + work.checked_rows * ROW_SECONDS
    amount = f"{sums.corpus.pairs:,} {work.noun}"
    return sums.step("corpus", amount, alone=seconds, disk=work.disk, memory=work.memory)


def _checkpoint(stage: str, sums: Sums) -> Step:
    retrieves = stage == RETRIEVAL_CHECKPOINT
    config = sums.settings.retrieves_with if retrieves else sums.settings.encoder
    size = (sums.retrieval if retrieves else sums.encoder).weights_bytes
    built = encoders().get(config.model)
    texts = built.encoded_texts if built else 0
    seconds = 3 * size / BYTES_PER_SECOND
    return sums.step(stage, f"{size / 4e6:,.0f} M weights", texts=texts, alone=seconds, disk=size)


def _embeddings(sums: Sums) -> Step:
    rows, work, corpus = sums.corpus.pairs, sums.work, sums.settings.corpus
    waits = sums.settings.images_wait
    images = rows if work.encodes_images and not waits else 0
    fetches = images and corpus.is_listed and corpus.fetches_images
    row_bytes = (2 if waits else 4) * sums.retrieval.dimension + METADATA_BYTES
    return sums.step(
        "corpus_embeddings",
        f"{rows:,} {'captions' if waits else 'pairs'}",
        images=images,
        texts=rows if work.encodes_captions else 0,
        shared=images * sums.corpus.draw_seconds,
        alone=sums.fetching_seconds(images) if fetches else 0,
        disk=rows * row_bytes if work.writes_vectors else 0,
    )


def _index(sums: Sums) -> Step:
    if sums.settings.corpus.has_index:
        return sums.step("faiss_index", "ready")
    key, width, rows = sums.index_key, sums.retrieval.dimension, sums.corpus.pairs
    sides = 1 if sums.settings.images_wait else 2
    size = key.bytes(rows, width)
    sample = 4 * width * min(key.sample_rows if key.trains else 0, rows)
    seconds = building_seconds(rows, key, width, sums.settings.index.recall_queries)
    moving = INDEX_PASSES * sides * size / BYTES_PER_SECOND
    return sums.step(
        "faiss_index",
        key.text,
        shared=sides * seconds,
        alone=moving,
        disk=sides * size,
        memory=size + sample,
    )


def building_seconds(rows: int, key: Key, width: int, queries: int) -> float:
    """Return the core seconds to build one side of an index, with the exact search that measures
    recall.

    Args:
        queries: `index.recall_queries`; as many more tune.
    """
    rate = OPERATIONS_PER_SECOND["fp32"]
    seconds = KMEANS_OPERATIONS * key.cells**2 * width / rate
    if key.cell_links:
        seconds += rows / ADDED_PER_SECOND
    elif key.links:
        seconds += rows * key.links / LINKS_PER_SECOND
    else:
        seconds += rows * key.cells / CELLS_ADDED_PER_SECOND
    # A Flat index is searched as exactly, by the half of the queries that tunes, and by the other
    # half at two depths.
    searches = 2.5 if key.text == "Flat" else 1
    return seconds + 4 * searches * queries * rows * width / rate


def _evaluation_sets(sums: Sums) -> Step:
    images = sum(domain.images for domain in sums.domains.values())
    seconds = images * (PAIR_SECONDS + sums.corpus.draw_seconds)
    return sums.step("evaluation_set", f"{images:,} images", alone=seconds)


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
        shared=pairs * sums.corpus.draw_seconds,
        alone=alone,
        disk=pairs * min(sums.corpus.pair_bytes, CorpusConfig.assumed_pair_bytes),
    )


def _search_seconds(sums: Sums) -> float:
    """Return the seconds of searching the prompts of all domains, which share the reading."""
    rows, width, cores = sums.corpus.pairs, sums.retrieval.dimension, sums.machine.cores
    key = sums.index_key
    approximate = bool(key.cells or key.links)
    compared = read = 0.0
    for slug, domain in sums.domains.items():
        settings = sums.project.retrieval(slug)
        if settings.choose == "all":
            continue
        way, _ = choose_way(settings.search, domain.prompts, rows, approximate, cores)
        seen, size = rows, 2 * rows * width
        if way == "index":
            seen, size = key.cells + rows // INDEX_SHARE, key.bytes(rows, width)
        rate = OPERATIONS_PER_SECOND[product_precision(domain.prompts, "cpu")]
        compared += len(settings.modes) * 2.0 * domain.prompts * seen * width / rate / cores
        read = max(read, len(settings.modes) * size)
    return compared + read / BYTES_PER_SECOND


def _trainings(sums: Sums) -> Step:
    encoder = sums.encoder
    texts = images = disk = 0
    towers = alone = 0.0
    for slug, name in (key.split("/") for key in sums.keys["customized_checkpoint"]):
        domain, method = sums.domains[slug], sums.project.method(name)
        training = sums.project.training(slug, name)
        seen = method.images(training, partial(int, domain.pairs))
        images += seen
        if isinstance(method, ModelMethod):
            towers += encoder.training_seconds(method, training, domain.pairs, domain.pairs)
            disk += int(encoder.weights_bytes)
        else:  # a head, on vectors that are there
            weights = encoder.dimension * domain.classes
            texts += domain.names + domain.prompts
            alone += seen * HEAD_OPERATIONS * weights / OPERATIONS_PER_SECOND["fp32"]
            disk += 8 * weights
    amount = f"{images:,} images in all steps"
    return sums.step(
        "customized_checkpoint", amount, texts=texts, towers=towers, alone=alone, disk=disk
    )


def _results(sums: Sums) -> Step:
    texts = images = 0
    for slug, method in (key.split("/") for key in sums.keys["domain_results"]):
        images += sums.domains[slug].images
        texts += sums.domains[slug].names if sums.project.method(method).has_model else 0
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
