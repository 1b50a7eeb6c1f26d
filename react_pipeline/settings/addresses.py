"""Addresses: how shards are named in `pipeline.yaml` (paths, patterns, URLs and ranges such as
`{00000..00099}`), and which addresses hold a secret.

Belongs here: which names are allowed, what a range expands to, and text without secrets; nothing is
opened. Does not belong here: finding files (`corpus`), reading from a server (`remote`), where
credentials come from (the environment, read by the libraries that need them).

Libraries elsewhere take much more than this: webdataset runs `pipe:` in a shell, and fsspec chains
file systems with `::`. So a name is a plain local path, or `scheme://host/path` with one of
`REMOTE_SCHEMES` and nothing clever in it.
"""

import math
import re

from braceexpand import braceexpand  # type: ignore[import-untyped, unused-ignore]

REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")
"""What shards may be read from besides local paths."""
LISTABLE_SCHEMES = ("s3", "gs", "az")
"""Those that can list their files, so that `*` works."""
MAX_EXPANDED = 1_000_000
"""How many names the ranges of a pattern may expand to; LAION-5B has half as many shards."""

_LOCAL = re.compile(r"(?!\s*[A-Za-z][A-Za-z0-9+.-]*:)(?=.*\S)[^\x00-\x1f\x7f]+")
_REMOTE = re.compile(
    rf"({'|'.join(REMOTE_SCHEMES)})://[^\s/@?#:\\*\[{{]+(:\d+)?"
    r"/+[^\s?#\\\x00-\x1f\x7f/][^\s?#\\\x00-\x1f\x7f]*"
)
"""Neither user, password nor query: these are secrets, and names are repeated in messages and kept
in artifacts. Bucket and host are written out.
"""
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)")
_ALLOWED = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)
_USER = re.compile(r"(:/{1,2}|(?<![\w:/])//)[^/?#\s'\"]*@")
_FIELD = re.compile(
    r"(?i)([?&;][^=&;\s]*(?:auth|cred|pass|pwd|secret|token|key|sig)[^=&;\s]*=)[^&;\s'\"]+"
)


def has_secret(address: str) -> bool:
    """Return whether an address names a user or a password before its host, or a password, token or
    key as a parameter.
    """
    return without_secrets(address) != address


def without_secrets(text: str) -> str:
    """Return a text with what is secret in its addresses left out."""
    return _FIELD.sub(r"\1…", _USER.sub(r"\1…@", text))


def is_url(name: str) -> bool:
    """Return whether this names something on a server; local paths have no scheme."""
    return name.startswith(tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES))


def has_wildcard(name: str) -> bool:
    """Return whether files must be listed to expand it."""
    return any(mark in name for mark in "*[")


def check_shard_name(name: str) -> None:
    """Refuse what is neither a local path nor a plain URL of an allowed scheme.

    Raises:
        ValueError: Saying what is refused and what to write instead.
    """
    is_sound = (_REMOTE if is_url(name) else _LOCAL).fullmatch(name) and "::" not in name
    if not is_sound:
        # A possible secret is never repeated.
        shown = without_secrets(re.split("[?#]", name)[0] if "://" in name else name)
        raise ValueError(
            f"{shown!r}: only local paths and {_ALLOWED} are read, such as s3://bucket/a/*.tar, "
            "without user, password, `?`, `#`, `::`, blanks or control characters; all else is "
            "refused, and credentials come from the environment"
        )
    if not is_url(name):
        return  # braces may be part of a folder's name
    expand(name)
    if any("**" in part and part != "**" for part in name.split("/")):
        raise ValueError(f"{name!r}: `**` stands for whole folders; write a/**/*.tar")
    if not name.startswith(LISTABLE_SCHEMES) and has_wildcard(name):
        raise ValueError(
            f"{name!r}: a web server lists no files; write a range such as {{00000..00099}}.tar"
        )


def expand(name: str) -> list[str]:
    """Return the names that a pattern with `{00000..00099}` or `{train,extra}` expands to, in
    order; leading zeros are kept.

    Raises:
        ValueError: If braces do not match, hold neither `a..b` nor `a,b`, or ranges expand to more
            than `MAX_EXPANDED`.
    """
    sizes = (abs(int(last) - int(first)) + 1 for first, last in _RANGE.findall(name))
    if math.prod(sizes) > MAX_EXPANDED:
        raise ValueError(
            f"{name!r}: expands to more than {MAX_EXPANDED:,} files; write several patterns"
        )
    names = list(braceexpand(name, escape=False))
    if any("{" in one or "}" in one for one in names):
        raise ValueError(
            f"{name!r}: braces must close, and hold a range {{00000..00099}} or a list {{a,b}}"
        )
    return names
