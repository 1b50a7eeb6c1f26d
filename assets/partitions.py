"""Partitions: one a domain, and one a domain and method, with the mappings between them.

Belongs here: the partition definitions, what a partition key means, and which keys are refused.
Does not belong here: which domains exist (`domain_files` registers the files of `domains/`), which
methods (`methods` of pipeline.yaml).
"""

from collections.abc import Mapping

import dagster as dg

from react_pipeline.assets.resources import CheckContext, Context, ProjectResource
from react_pipeline.settings import SLUG, Method
from react_pipeline.stage import ALL, DOMAIN_FILE, STAGES, Stage

DOMAIN, METHOD = "domain", "method"
DOMAINS = "domains"
"""Name of the dynamic partitions in the Dagster instance, after the prefix of the project."""


def domain_partitions(project: ProjectResource) -> dg.DynamicPartitionsDefinition:
    """The partitions of what there is one of for each domain."""
    return dg.DynamicPartitionsDefinition(name=project.name(DOMAINS))


def make_partitions(
    stage: Stage, methods: Mapping[str, Method], project: ProjectResource
) -> dg.PartitionsDefinition | None:
    """The partitions of a stage for these methods; None where there is one artifact for all
    domains.
    """
    domains = domain_partitions(project)
    if stage.scope in ("all", "domain"):
        return None if stage.scope == "all" else domains
    names = [name for name, method in methods.items() if stage.is_for(method)]
    return dg.MultiPartitionsDefinition(
        {DOMAIN: domains, METHOD: dg.StaticPartitionsDefinition(names)}
    )


def make_mapping(
    parent: str, child: Stage, methods: Mapping[str, Method]
) -> dg.PartitionMapping | None:
    """Return how the partitions of a parent, a stage or the domain's file, belong to those of a
    child; with None Dagster chooses the mapping.
    """
    scopes = "domain" if parent == DOMAIN_FILE else STAGES[parent].scope, child.scope
    if "all" in scopes or scopes[0] == scopes[1]:
        return None
    if "domain" in scopes:
        return dg.MultiToSingleDimensionPartitionMapping(DOMAIN)
    # `base` is measured with no checkpoint of its own, so nothing is upstream of it here.
    same = dg.StaticPartitionMapping(
        {
            name: name
            for name, method in methods.items()
            if STAGES[parent].is_for(method) and child.is_for(method)
        }
    )
    return dg.MultiPartitionMapping(
        {
            DOMAIN: dg.DimensionPartitionMapping(DOMAIN, dg.IdentityPartitionMapping()),
            METHOD: dg.DimensionPartitionMapping(METHOD, same),
        }
    )


def to_partition_key(key: str) -> str | None:
    """The partition key of what the library calls `key`; None for `all`."""
    if key == ALL:
        return None
    domain, slash, method = key.partition("/")
    return dg.MultiPartitionKey({DOMAIN: domain, METHOD: method}) if slash else domain


def library_key(context: Context | CheckContext) -> str:
    """What the library calls this partition: `all`, a domain, or `<domain>/<method>`.

    Raises:
        dagster.Failure: If the domain is not a valid slug. Dagster itself accepts `..` as a key,
            and `a/b`.
    """
    if not context.has_partition_key:
        return ALL
    partition = context.partition_key
    if isinstance(partition, dg.MultiPartitionKey):
        domain, method = (partition.keys_by_dimension[name] for name in (DOMAIN, METHOD))
        return f"{require_slug(domain)}/{method}"
    return require_slug(partition)


def require_slug(domain: str) -> str:
    """The domain, if it may be one."""
    if not SLUG.fullmatch(domain):
        raise dg.Failure(
            f"{domain!r} is not a domain: use a-z, 0-9 and '-', 63 characters at most. Delete this "
            "partition and rename the file of the domain",
            allow_retries=False,
        )
    return domain
