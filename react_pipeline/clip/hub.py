"""The Hub of models: whether it answers, so that a machine without a network waits for nothing.

Does not belong here: what is fetched (`base`, `pretrained`).
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CONNECT_SECONDS = 10
_SOCKS_PORT = 1080


@contextmanager
def reach_hub() -> Iterator[str]:
    """Use only the Hub's cache while its server does not answer; yields why it does not, or "".

    Else its client would try each file for half a minute.
    """
    from huggingface_hub import constants

    why = "" if constants.HF_HUB_OFFLINE else unreachable(constants.ENDPOINT)
    if not why:
        yield ""
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield why
    finally:
        constants.HF_HUB_OFFLINE = False


def unreachable(endpoint: str) -> str:
    """Return why a server of weights does not answer; "" if it does. Takes some seconds at most."""
    but = "and its cache does not hold it"
    try:
        server = urlsplit(endpoint)
        proxies = getproxies()
        proxy = proxies.get(server.scheme) or proxies.get("all")
        if proxy and not proxy_bypass(server.hostname or ""):
            server = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = server.port or {"https": 443, "http": 80}.get(server.scheme, _SOCKS_PORT)
        socket.create_connection((server.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        return f"{server.hostname} cannot be reached ({error.strerror or error}), {but}"
    except ValueError:  # its text may hold a part of the proxy's password
        return f"{endpoint} cannot be reached (its address, or its proxy's, is malformed), {but}"
    return ""
