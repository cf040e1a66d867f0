"""The token that authenticates a client at a Ray cluster; it goes into the header of a request, and nowhere else."""

import os
from pathlib import Path

from lttune.errors import ClusterError
from lttune.tuning import HAS_OWN_TOKEN


def client_token() -> str | None:
    """The token that a person gave, looked for as Ray does: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, `~/.ray/auth_token`.

    Raises:
        ClusterError: RAY_AUTH_TOKEN_PATH names a file that cannot be read.
    """
    # The token of a search on this machine is no cluster's.
    environment = {} if HAS_OWN_TOKEN else os.environ
    if environment.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return None
    if token := environment.get("RAY_AUTH_TOKEN", "").strip():
        return token
    given = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text().strip() or None
    except OSError as error:
        if given:
            raise ClusterError(f"RAY_AUTH_TOKEN_PATH is {given}: {error.strerror}; correct it.") from error
        return None


def known_tokens() -> list[str]:
    """Every token that this process can see, none of which may leave it but as a header."""
    found = {client_token(), os.environ.get("RAY_AUTH_TOKEN", "").strip()}
    return sorted(token for token in found if token)
