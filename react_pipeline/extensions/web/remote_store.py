"""Requests about one remote shard: fsspec's options, time-outs, retries, errors
that name it.

Does not belong here: which names are allowed (`settings.shard_patterns`), what is asked for
(`remote`).
"""

import errno
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from react_pipeline.corpus import RemoteShard
from react_pipeline.extensions.web.bounded_body import RefusedAccess
from react_pipeline.extensions.web.public_addresses import is_public_server
from react_pipeline.installation import install_command
from react_pipeline.store import CorpusError, ReactError, SourceUnavailable

ATTEMPTS = 4
"""Of each request, if it fails in a way that may pass."""
ATTEMPTS_SECONDS = 60.0
"""A request that took longer, with its attempts, is not tried again; no server sets the pauses."""
FIRST_PAUSE_SECONDS = 0.5
"""Before the second attempt; it doubles."""
CONNECT_SECONDS = 15
READ_SECONDS = 60
"""Without a single byte."""

_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_ERRNO = frozenset({errno.EIO, errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT})
_TRANSIENT_TYPES = frozenset(
    {
        "ClientConnectionError",
        "ClientPayloadError",
        "ServerTimeoutError",
        "TimeoutError",
        "FSTimeoutError",
        "ConnectionError",
        "EndpointConnectionError",
        "HTTPClientError",
        "ResponseParserError",
        "IncompleteRead",
    }
)
"""Names of exceptions of fsspec's back ends, which need not be installed."""
_OF_HTTP = f"aiohttp ({install_command('pipeline')})"
_EXTRAS = {
    "http": _OF_HTTP,
    "https": _OF_HTTP,
    "s3": f"s3fs ({install_command('s3')})",
    "gs": "gcsfs (pip install gcsfs)",
}

T = TypeVar("T")
logger = logging.getLogger(__name__)


def file_system(shard: RemoteShard) -> Any:
    """Of fsspec, which keeps one a process and set of options, and makes a fresh one after
    a fork.
    """
    import fsspec  # type: ignore[import-untyped]

    scheme = shard.url.partition("://")[0]
    storage = shard.storage
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("http", "https"):
        from react_pipeline.extensions.web.bounded_answer import open_session

        options["get_client"] = open_session
        options["client_kwargs"] = {"only_public": is_public_server(shard.url)}
    elif scheme == "s3":
        options |= {"anon": storage.anonymous, "requester_pays": storage.requester_pays}
        options |= {"profile": storage.profile} if storage.profile else {}
        options |= {"endpoint_url": storage.endpoint_url} if storage.endpoint_url else {}
        options["client_kwargs"] = {"region_name": storage.region} if storage.region else {}
        options["config_kwargs"] = {
            "connect_timeout": CONNECT_SECONDS,
            "read_timeout": READ_SECONDS,
        }
    else:
        options |= {"requester_pays": True} if storage.requester_pays else {}
        options |= {"token": "anon"} if storage.anonymous else {}
        options |= {"endpoint_url": storage.endpoint_url} if storage.endpoint_url else {}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise CorpusError(
            f"{shard}: reading {scheme}:// needs {_EXTRAS.get(scheme, error)}"
        ) from error


def attempt(shard: RemoteShard, action: Callable[[], T]) -> T:
    """The result of a request; failures that may pass are tried again with growing pauses, others
    explained.
    """
    end = time.monotonic() + ATTEMPTS_SECONDS
    for number in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (
            ReactError,
            ModuleNotFoundError,
        ):  # the latter is for the command line, which names the extra
            raise
        except Exception as error:
            chain = _chain(error)
            status = next(
                (link.status for link in chain if isinstance(getattr(link, "status", None), int)),
                None,
            )
            if not _is_transient(chain, status):
                raise _explained(shard, chain, status) from error
            if number == ATTEMPTS or time.monotonic() > end:
                what = f"answers {status}" if status else "cannot be read: " + _words(chain[-1])
                raise SourceUnavailable(
                    f"{shard}: {what}, after {number} attempts; check the address and the "
                    "network, and run again"
                ) from error
            logger.info("%s: %s; attempt %d of %d", shard, _words(error), number + 1, ATTEMPTS)
            time.sleep(FIRST_PAUSE_SECONDS * 2 ** (number - 1))
    raise AssertionError("unreachable")


def _chain(error: BaseException) -> list[Any]:
    links: list[Any] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _is_transient(chain: list[Any], status: int | None) -> bool:
    if any(isinstance(link, RefusedAccess) for link in chain):
        return False
    if status is not None:
        return status in _TRANSIENT_STATUS
    return any(
        {kind.__name__ for kind in type(link).__mro__} & _TRANSIENT_TYPES
        or (isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNO)
        for link in chain
    )


def _explained(shard: RemoteShard, chain: list[Any], status: int | None) -> CorpusError:
    refused = next((link for link in chain if isinstance(link, RefusedAccess)), None)
    if refused is not None:
        what = f"is not read ({_words(refused)})"
    elif status in (401, 403) or any(isinstance(link, PermissionError) for link in chain):
        what = "access is refused; check the credentials of the environment or `corpus.storage`"
    elif any(type(link).__name__ == "NoCredentialsError" for link in chain):
        what = (
            "no credentials found; set them in the environment, or `corpus.storage.anonymous` for "
            "public buckets"
        )
    elif status in (404, 410) or any(isinstance(link, FileNotFoundError) for link in chain):
        what = "is not there; correct the address"
    else:
        what = f"cannot be read ({_words(chain[0])})"
    return CorpusError(f"{shard}: {what}" + (f" (status {status})" if status else ""))


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
