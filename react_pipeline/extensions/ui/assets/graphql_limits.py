"""Limits of what Dagster's GraphQL may be asked: the bytes of a request, and the size and depth of
its query.

Does not belong here: from where a request may come (`webserver`).
"""

import json
from typing import Any

from graphql import GraphQLError, Source, TokenKind
from graphql.language.lexer import Lexer

MAX_BODY_BYTES = 1 << 20
MAX_TOKENS = 20_000
"""The largest query of Dagster's own pages has 714."""
MAX_ALIASES = 50
"""Each may be a question to the database; Dagster's pages use 4."""
MAX_DEPTH = 60
"""Of braces, brackets and parentheses; Dagster's pages have 11."""

_OPENING = (TokenKind.BRACE_L, TokenKind.BRACKET_L, TokenKind.PAREN_L)
_CLOSING = (TokenKind.BRACE_R, TokenKind.BRACKET_R, TokenKind.PAREN_R)


def too_much(body: bytes | str) -> str:
    """Why the body of a request, or a message of a websocket, is refused; "" if it is not."""
    if len(body) > MAX_BODY_BYTES:
        return f"a request of GraphQL has at most {MAX_BODY_BYTES:,} bytes"
    try:
        request = json.loads(body)
    except (ValueError, RecursionError):
        return "the body must be JSON"
    if not isinstance(request, dict):
        return "send one query in a request, as a JSON object"
    query = _query_of(request)
    return "" if query is None else _too_large(query)


def _query_of(request: dict[str, Any]) -> str | None:
    payload = request.get("payload")  # of a websocket
    query = (payload if isinstance(payload, dict) else request).get("query")
    return query if isinstance(query, str) else None


def _too_large(query: str) -> str:
    """Counted before the query is parsed, which takes time and stack."""
    lexer = Lexer(Source(query))
    tokens = aliases = depth = arguments = 0
    try:
        while (token := lexer.advance()).kind is not TokenKind.EOF:
            tokens += 1
            depth += (token.kind in _OPENING) - (token.kind in _CLOSING)
            arguments += (token.kind is TokenKind.PAREN_L) - (token.kind is TokenKind.PAREN_R)
            aliases += token.kind is TokenKind.COLON and not arguments
            if tokens > MAX_TOKENS or aliases > MAX_ALIASES or depth > MAX_DEPTH:
                return (
                    f"a query of GraphQL has at most {MAX_TOKENS:,} tokens, {MAX_ALIASES} aliases, "
                    f"and {MAX_DEPTH} levels"
                )
    except GraphQLError:  # Dagster's own answer names the place
        return ""
    return ""
