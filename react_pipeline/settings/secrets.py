"""Secrets in addresses: which addresses hold one, and text without them.

Belongs here: the one rule for passwords in URLs and database addresses. Does not belong here: where
credentials come from (the environment, read by the libraries that need them).
"""

import re

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
