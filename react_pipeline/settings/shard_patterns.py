"""How shards are named in `pipeline.yaml`: paths, patterns, URLs and ranges such as
`{00000..00099}`.

Belongs here: which names are allowed, and what a range expands to; nothing is opened. Does not
belong here: finding files (`corpus`), reading from a server (`remote`).

Libraries elsewhere take much more than this: webdataset runs `pipe:` in a shell, and fsspec chains
file systems with `::`. So a name is a plain local path, or `scheme://host/path` with one of
`REMOTE_SCHEMES` and nothing clever in it.
"""

import re
from urllib.parse import urlsplit

from braceexpand import braceexpand  # type: ignore[import-untyped, unused-ignore]

from react_pipeline.settings.secrets import without_secrets

REMOTE_SCHEMES = ("s3", "gs", "az", "http", "https")
"""What shards may be read from besides local paths."""
LISTABLE_SCHEMES = ("s3", "gs", "az")
"""Those that can list their files, so that `*` works."""
MAX_EXPANDED = 1_000_000
"""How many names one pattern may expand to; LAION-5B has half as many shards."""

_SCHEME = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*:")
_BRACES = re.compile(r"\{(?:(\d{1,12})\.\.(\d{1,12})|[^{},]*,[^{}]*)\}")
_ALLOWED = ", ".join(f"{scheme}://" for scheme in REMOTE_SCHEMES)


def is_url(name: str) -> bool:
    """Whether this names something on a server; local paths have no scheme."""
    return name.startswith(tuple(f"{scheme}://" for scheme in REMOTE_SCHEMES))


def has_wildcard(name: str) -> bool:
    """Whether files must be listed to expand it."""
    return any(mark in name for mark in "*[")


def check_shard_name(name: str) -> None:
    """Refuse what is neither a local path nor a plain URL of an allowed scheme.

    Raises:
        ValueError: Saying what is refused and what to write instead.
    """
    # A possible secret is never repeated.
    shown = without_secrets(name.partition("?")[0] if "://" in name else name)
    if not name.strip() or any(ord(mark) < 32 or ord(mark) == 127 for mark in name):
        raise ValueError(f"{shown!r}: is empty or holds control characters")
    if "::" in name:
        raise ValueError(
            f"{shown!r}: chained addresses (::) are refused; name the tar files themselves"
        )
    if is_url(name):
        _check_url(name)
        # Braces of a local path may be part of a folder's name, so they are read when files are
        # looked for.
        expanded_count(name)
    elif _SCHEME.match(name):
        raise ValueError(
            f"{shown!r}: only local paths and {_ALLOWED} are read; commands (pipe:) and other "
            "schemes are refused, and for file: write the path itself"
        )


def _check_url(name: str) -> None:
    try:
        parts = urlsplit(name)
        host = parts.hostname
        credentials = parts.username or parts.password
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"{name!r}: is not a complete URL ({error})") from error
    if credentials is not None or "@" in parts.netloc:
        # Names are repeated in messages and kept in artifacts, so credentials must not be in them.
        raise ValueError(
            f"a URL of {parts.scheme}://…@{host} holds a user name or password; credentials come "
            "from the environment or a profile, never from pipeline.yaml"
        )
    if not host or not parts.path.strip("/"):
        raise ValueError(f"{name!r}: is not a complete URL: scheme://host/path/file.tar")
    if "?" in name or "#" in name:
        raise ValueError(
            f"{name.partition('?')[0].partition('#')[0]!r}: what follows `?` or `#` is refused: "
            "signed links are secrets that expire; for a wildcard use `*`"
        )
    if "\\" in name or any(mark.isspace() for mark in name):
        raise ValueError(
            f"{name!r}: holds blanks or backslashes; write blanks as %20 for http, or rename the "
            "files"
        )
    if has_wildcard(parts.netloc) or "{" in parts.netloc:
        raise ValueError(f"{name!r}: host and bucket must be written out")
    if parts.scheme not in LISTABLE_SCHEMES and has_wildcard(name):
        raise ValueError(
            f"{name!r}: a web server lists no files; write a range such as {{00000..00099}}.tar"
        )


def expanded_count(name: str) -> int:
    """How many names `expand` gives, without making them.

    Raises:
        ValueError: If braces do not match, hold neither `a..b` nor `a,b`, or expand to more than
            `MAX_EXPANDED`.
    """
    if re.search(r"[{}]", _BRACES.sub("", name)):
        raise ValueError(
            f"{name!r}: braces must close, and hold a range {{00000..00099}} or a list {{a,b}}, "
            "no braces"
        )
    total = 1
    for group in _BRACES.finditer(name):
        total *= int(group[2]) - int(group[1]) + 1 if group[1] else group[0].count(",") + 1
        if total < 1:
            raise ValueError(f"{name!r}: the range {group[0]} runs backwards")
        if total > MAX_EXPANDED:
            raise ValueError(
                f"{name!r}: expands to more than {MAX_EXPANDED:,} files; write several patterns"
            )
    return total


def expand(name: str) -> list[str]:
    """The names that a pattern with `{00000..00099}` or `{train,extra}` expands to, in order;
    leading zeros are kept.

    Errors as of `expanded_count`.
    """
    expanded_count(name)
    return list(braceexpand(name, escape=False))
