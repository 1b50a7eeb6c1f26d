"""The sums of a configuration on a machine, stage by stage.

Belongs here: how much work each stage has. Does not belong here: what one image, caption, row or
step costs (the modules `..._cost`, `processor`), what will not fit and what was measured (`plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from react_pipeline.clip import prompt_templates
from react_pipeline.corpus import CorpusSize
from react_pipeline.extensions.one_pass import passes_of
from react_pipeline.extensions.plan.encoding_cost import METADATA_BYTES
from react_pipeline.extensions.plan.index_cost import (
    BYTES_PER_SECOND,
    comparing_seconds,
    index_seconds,
    planned_key,
    searching_seconds,
)
from react_pipeline.extensions.plan.machine import Machine
from react_pipeline.extensions.plan.processor import Processor
from react_pipeline.extensions.plan.step_cost import head_step_seconds
from react_pipeline.extensions.web import ALIVE, DOWNLOADER_SECONDS, URLS_PER_CORE_SECOND
from react_pipeline.indexing import Key, choose_way
from react_pipeline.labelled import count_images
from react_pipeline.project import Project
from react_pipeline.retrieval import REFILL_ROUNDS, most_pairs
from react_pipeline.settings import CorpusConfig, DomainConfig, encoders, load_domains
from react_pipeline.stage import RETRIEVAL_CHECKPOINT, STAGES
from react_pipeline.store import InputError, ReactError
from react_pipeline.training import ModelMethod, PlannedTraining

START_SECONDS = 0.5
"""Of every artifact: its model is loaded, its pictures are drawn, its files are hashed."""
PAIR_SECONDS = 5e-4
"""Of a pair, or a labelled image, that is read, decoded for a contact sheet, and written."""
ROW_SECONDS = 2e-5
"""Of a row of a table that is read and checked."""
INDEX_PASSES = 5
"""Over the bytes of an index: vectors are read for their digest and to be added; the index is
written, read for its digest, and searched.
"""


@dataclass(frozen=True)
class Cost:
    """Processor seconds: in towers, which a GPU is faster at; other work that cores share; what one
    core does alone.
    """

    towers: float = 0
    shared: float = 0
    alone: float = START_SECONDS

    def __add__(self, other: Cost) -> Cost:
        """The sum of two artifacts."""
        return Cost(
            self.towers + other.towers, self.shared + other.shared, self.alone + other.alone
        )


@dataclass(frozen=True)
class Step:
    """The sums of a stage over all its keys, in bytes and hours; None where the machine has no GPU.

    `measured_hours` and `measured_disk` are there once all its artifacts are, made from today's
    inputs. `less_memory` and `less_time` say which settings help where it does not fit.
    """

    stage: str
    amount: str
    disk: float = 0
    memory: float = 0
    cpu_hours: float = 0
    gpu_hours: float | None = None
    measured_hours: float | None = None
    measured_disk: int | None = None
    less_memory: str = ""
    less_time: str = ""


@dataclass
class PlannedDomain:
    """What decides the costs of one domain: how many prompts, templates, pairs, labelled images."""

    config: DomainConfig
    prompts: int
    templates: int
    pairs: int
    images: int

    @property
    def names(self) -> int:
        """Prompts of the zero-shot head."""
        return len(self.config.classes) * self.templates


@dataclass
class Sums:
    """The sums, stage by stage; `Stage.plan` gets them.

    Attributes:
        project, machine, corpus: What is planned, on what, with how many pairs.
        keys: By stage, the keys of its artifacts.
        domains: By slug, what decides the costs of a domain.
        processor, retrieval: What the encoders cost here: the one that is customized, and the one
            that retrieves.
    """

    project: Project
    machine: Machine
    corpus: CorpusSize
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = config = self.project.config
        self.processor = self.retrieval = Processor(self.project, config.encoder, "base_checkpoint")
        if config.two_encoders:
            self.retrieval = Processor(self.project, config.retrieves_with, RETRIEVAL_CHECKPOINT)
        self.corpus_work = config.corpus.work(self.corpus, self.retrieval.encoder.dimension)
        configs = load_domains(config.domains)[0]
        self.keys = {
            name: row.keys(configs, config.methods, config.two_encoders, config.all_methods)
            for name, row in STAGES.items()
        }
        self.domains = {slug: self._domain(slug, domain) for slug, domain in configs.items()}
        self.key = self._chosen_key()

    def _domain(self, slug: str, config: DomainConfig) -> PlannedDomain:
        pairs = most_pairs(self.project, slug, self.corpus.pairs)
        templates = len(prompt_templates(config))
        names = sum(1 + len(entry.synonyms) for entry in config.classes)
        return PlannedDomain(config, names * templates, templates, pairs, count_images(config))

    def _chosen_key(self) -> Key:
        index = self.settings.index
        width = self.retrieval.encoder.dimension
        try:
            return planned_key(index, self.corpus.pairs, width, self.machine.memory)
        except InputError as error:
            self.problems.append(str(error))
            return Key.parse(index.key)

    def steps(self) -> list[Step]:
        """In the order of the data, without those that no configured method needs."""
        steps = []
        for name, row in STAGES.items():
            estimate = self._of_core.get(name) or row.plan
            if estimate is None or not self.keys[name]:
                continue
            try:
                steps.append(estimate(self))
            except ReactError:
                raise
            except Exception as error:  # noqa: BLE001 - of an extension, which stops nothing else
                steps.append(Step(name, f"no estimate: {type(error).__name__}: {error}"))
        return steps

    @property
    def _of_core(self) -> dict[str, Callable[[Sums], Step]]:
        return {
            "corpus": Sums.corpus_step,
            "base_checkpoint": partial(Sums.checkpoint_step, stage="base_checkpoint"),
            "retrieval_checkpoint": partial(Sums.checkpoint_step, stage="retrieval_checkpoint"),
            "corpus_embeddings": Sums.embeddings_step,
            "faiss_index": Sums.index_step,
            "evaluation_set": Sums.evaluation_sets_step,
            "retrieved_set": partial(Sums.pairs_step, stage="retrieved_set"),
            "control_set": partial(Sums.pairs_step, stage="control_set"),
            "customized_checkpoint": Sums.trainings_step,
            "domain_results": Sums.results_step,
        }

    def timed(self, step: Step, cost: Cost) -> Step:
        """A step with the hours of its cost."""
        machine = self.machine
        rest = cost.shared / machine.cores + cost.alone
        cpu_hours = (cost.towers / machine.cores + rest) / 3_600
        gpu_hours = None
        if machine.gpus:
            gpu_hours = (cost.towers * self.processor.gpu_share / machine.gpus + rest) / 3_600
        return replace(step, cpu_hours=cpu_hours, gpu_hours=gpu_hours)

    def corpus_step(self) -> Step:
        """The files of the corpus are read."""
        work = self.corpus_work
        rows = self.corpus.pairs
        alone = START_SECONDS + work.read_bytes / BYTES_PER_SECOND + work.checked_rows * ROW_SECONDS
        step = Step(
            "corpus",
            f"{rows:,} {work.noun}",
            work.disk,
            work.memory,
            less_memory="download with img2dataset on a cluster and use `corpus.kind: webdataset`",
        )
        return self.timed(step, Cost(alone=alone))

    def _fetching(self, urls: float, rounds: int = 1) -> float:
        """Seconds of downloads."""
        processes = min(self.settings.corpus.access()[1].processes, self.machine.cores)
        return rounds * DOWNLOADER_SECONDS + urls / URLS_PER_CORE_SECOND / processes

    def checkpoint_step(self, stage: str) -> Step:
        """The weights of an encoder are read, and written."""
        retrieves = stage == RETRIEVAL_CHECKPOINT
        processor = self.retrieval if retrieves else self.processor
        config = self.settings.retrieves_with if retrieves else self.settings.encoder
        encoder = processor.encoder
        cost = Cost(alone=START_SECONDS + 3 * encoder.weights_bytes / BYTES_PER_SECOND)
        if built := encoders().get(config.model):
            cost += Cost(built.encoded_texts * processor.encoding.text)
        return self.timed(
            Step(stage, f"{encoder.weights_bytes / 4e6:,.0f} M weights", encoder.weights_bytes),
            cost,
        )

    def embeddings_step(self) -> Step:
        """Both towers over every pair."""
        rows = self.corpus.pairs
        encoding = self.retrieval.encoding
        work = self.corpus_work
        waits = self.settings.images_wait
        images = rows if work.encodes_images and not waits else 0
        captions = rows if work.encodes_captions else 0
        sides = 1 if waits else 2
        disk = rows * (2.0 * sides * self.retrieval.encoder.dimension + METADATA_BYTES)
        alone = START_SECONDS + (encoding.start if images else 0)
        if images and self.settings.corpus.is_listed and self.settings.corpus.fetches_images:
            alone += self._fetching(images)
        cost = Cost(
            images * encoding.image + captions * encoding.text,
            images * (encoding.prepare + self.corpus.draw_seconds),
            alone,
        )
        noun = "captions" if waits else "pairs"
        step = Step("corpus_embeddings", f"{rows:,} {noun}", disk if work.writes_vectors else 0)
        return self.timed(step, cost)

    def index_step(self) -> Step:
        """The index is trained, filled and searched for its recall."""
        key = self.key
        width = self.retrieval.encoder.dimension
        rows = self.corpus.pairs
        if self.settings.corpus.has_index:
            return Step("faiss_index", "ready")
        sides = 1 if self.settings.images_wait else 2
        size = key.bytes(rows, width)
        sample = 4 * width * min(key.sample_rows if key.trains else 0, rows)
        building = index_seconds(rows, key, width, self.settings.index.recall_queries)
        moving = INDEX_PASSES * sides * size / BYTES_PER_SECOND
        cost = Cost(shared=building * sides / 2, alone=START_SECONDS + moving)
        step = Step(
            "faiss_index",
            key.text,
            sides * size,
            size + sample,
            less_memory="set `index.key: auto`, or a key of shorter codes, such as "
            "OPQ64_512,IVF4096_HNSW32,PQ64x8",
        )
        return self.timed(step, cost)

    def evaluation_sets_step(self) -> Step:
        """Labelled images are read."""
        images = sum(domain.images for domain in self.domains.values())
        alone = images * (PAIR_SECONDS + self.corpus.draw_seconds) + START_SECONDS * len(
            self.domains
        )
        return self.timed(Step("evaluation_set", f"{images:,} images"), Cost(alone=alone))

    def pairs_step(self, stage: str) -> Step:
        """Evaluation images are compared with, prompts are searched (but for a control), pairs are
        collected.
        """
        encoding = self.retrieval.encoding
        cost = Cost(alone=0)
        pairs = 0
        draws = max(len(self.settings.seeds), 1) if stage == "control_set" else 1
        corpus = self.settings.corpus
        for domain in self.domains.values():
            towers = domain.images * encoding.image
            alone = START_SECONDS + draws * domain.pairs * PAIR_SECONDS
            if stage == "retrieved_set":
                towers += domain.prompts * encoding.text
            prepared = domain.images
            waits = self.settings.images_wait
            if corpus.fetches_images and (waits or not corpus.is_listed):
                asked = min(domain.pairs / ALIVE, self.corpus.pairs)
                alone += draws * self._fetching(asked, 1 + REFILL_ROUNDS)
            if waits:
                towers += draws * domain.pairs * encoding.image
                prepared += draws * domain.pairs
            drawn = draws * domain.pairs * self.corpus.draw_seconds
            cost += Cost(towers, prepared * encoding.prepare + drawn, alone)
            pairs += draws * domain.pairs
        if stage == "retrieved_set":
            cost += Cost(alone=self._search_seconds())
        size = pairs * min(self.corpus.pair_bytes, CorpusConfig.assumed_pair_bytes)
        return self.timed(Step(stage, f"{pairs:,} pairs at most", size), cost)

    def _search_seconds(self) -> float:
        """Seconds of searching the prompts of all domains on the cores; exact searches of several
        domains share the reading.
        """
        rows = self.corpus.pairs
        width = self.retrieval.encoder.dimension
        cores = self.machine.cores
        approximate = bool(self.key.cells or self.key.links)
        compared = indexed = 0.0
        queries = domains = most_modes = 0
        for slug, domain in self.domains.items():
            settings = self.project.retrieval(slug)
            if settings.choose == "all":
                continue
            modes = len(settings.modes)
            prompts = domain.prompts
            way, _ = choose_way(settings.search, prompts, rows, approximate, cores)
            if way == "index":
                indexed += modes * searching_seconds(prompts, rows, self.key, width) / cores
                indexed += modes * self.key.bytes(rows, width) / BYTES_PER_SECOND
                continue
            compared += modes * comparing_seconds(prompts, rows, width) / cores
            queries += modes * prompts
            domains += 1
            most_modes = max(most_modes, modes)
        reading = 2 * rows * width / BYTES_PER_SECOND
        passes = min(domains, passes_of(queries, rows, cores))
        return indexed + compared + passes * most_modes * reading

    def trainings_step(self) -> Step:
        """Every training, as its method says."""
        cost = Cost(alone=0)
        images = 0
        disk = 0.0
        for slug, name in (key.split("/") for key in self.keys["customized_checkpoint"]):
            method = self.project.method(name)
            planned = self._planned(slug, name)
            images += method.images(planned.training, partial(int, planned.pairs))
            checkpoint = method.cost(planned)
            cost += Cost(checkpoint.towers, alone=START_SECONDS + checkpoint.alone)
            disk += checkpoint.disk
        step = Step(
            "customized_checkpoint",
            f"{images:,} images in all steps",
            disk,
            less_time="fewer steps or epochs (`customization`)",
        )
        return self.timed(step, cost)

    def _planned(self, slug: str, method: str) -> PlannedTraining:
        domain = self.domains[slug]
        training = self.project.training(slug, method)
        classes = len(domain.config.classes)
        encoder = self.processor.encoder
        encoding = self.processor.encoding

        def model_seconds(method: ModelMethod, texts: int) -> float:
            step = self.processor.step(method, training)
            return step.seconds(training, encoding, domain.pairs, texts)

        return PlannedTraining(
            training=training,
            pairs=domain.pairs,
            classes=classes,
            names=domain.names,
            prompts=domain.prompts,
            dimension=encoder.dimension,
            weights_bytes=encoder.weights_bytes,
            text_seconds=encoding.text,
            model_seconds=model_seconds,
            head_step_seconds=lambda: head_step_seconds(
                encoder.dimension, classes, training.batch_size
            ),
        )

    def results_step(self) -> Step:
        """The image tower over labelled images, the text tower over prompts."""
        encoding = self.processor.encoding
        cost = Cost(alone=0)
        images = 0
        for slug, method in (key.split("/") for key in self.keys["domain_results"]):
            domain = self.domains[slug]
            names = domain.names if self.project.method(method).has_model else 0
            towers = domain.images * encoding.image + names * encoding.text
            cost += Cost(towers, domain.images * encoding.prepare)
            images += domain.images
        return self.timed(Step("domain_results", f"{images:,} images"), cost)
