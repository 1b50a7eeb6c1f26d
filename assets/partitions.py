"""Partitions: one a domain, and one a domain and method, with the mappings between them.

Belongs here: the partition definitions, what a partition key means, and which keys are refused. Does not belong here:
which domains exist (`automation` registers the files of `domains/`).
"""

import dagster as dg

from react_pipeline.settings import METHODS, SLUG

DOMAIN, METHOD = "domain", "method"
DOMAINS = "domains"
"""Name of the dynamic partitions in the Dagster instance."""

TRAINED_METHODS = METHODS[1:]
"""Methods that have a checkpoint of their own: all but `base`."""

domain_partitions = dg.DynamicPartitionsDefinition(name=DOMAINS)

training_partitions = dg.MultiPartitionsDefinition(
    {DOMAIN: domain_partitions, METHOD: dg.StaticPartitionsDefinition(list(TRAINED_METHODS))}
)

evaluation_partitions = dg.MultiPartitionsDefinition(
    {DOMAIN: domain_partitions, METHOD: dg.StaticPartitionsDefinition(list(METHODS))}
)

to_domain = dg.MultiToSingleDimensionPartitionMapping(DOMAIN)
"""Between a domain and all its methods, in either direction."""

to_trained = dg.MultiPartitionMapping(
    {
        DOMAIN: dg.DimensionPartitionMapping(DOMAIN, dg.IdentityPartitionMapping()),
        # `base` is evaluated with no checkpoint of its own, so nothing is upstream of it here.
        METHOD: dg.DimensionPartitionMapping(
            METHOD, dg.StaticPartitionMapping({name: name for name in TRAINED_METHODS})
        ),
    }
)
"""From an evaluation to the checkpoint of the same domain and method."""


def partition_of(domain: str, method: str) -> dg.MultiPartitionKey:
    """The key of one domain and method."""
    return dg.MultiPartitionKey({DOMAIN: domain, METHOD: method})


def key_of(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext) -> tuple[str, ...]:
    """What the library calls this partition: `()`, `(domain,)` or `(domain, method)`.

    Raises:
        dagster.Failure: If the domain is no valid slug. Dagster itself takes `..`, `a/b` or `x,y` for partition keys.
    """
    if not context.has_partition_key:
        return ()
    partition = context.partition_key
    if isinstance(partition, dg.MultiPartitionKey):
        domain, method = (partition.keys_by_dimension[name] for name in (DOMAIN, METHOD))
        return require_slug(domain), method
    return (require_slug(partition),)


def require_slug(domain: str) -> str:
    """The domain, if it may be one."""
    if not SLUG.fullmatch(domain):
        raise dg.Failure(
            f"{domain!r} is not a domain: use a-z, 0-9 and '-', 63 characters at most. Delete this partition and add "
            "the domain with `react-pipeline domains add`",
            allow_retries=False,
        )
    return domain
