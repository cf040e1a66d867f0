from pathlib import Path

import pytest

from lttune.errors import ClusterError
from lttune.tuning.cluster import tokens


def test_where_it_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokens.client_token() is None
    home = tmp_path / "home" / ".ray" / "auth_token"
    home.parent.mkdir(parents=True)
    home.write_text("of the home folder\n")
    assert tokens.client_token() == "of the home folder"
    (tmp_path / "file").write_text(" of a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "file"))
    assert tokens.client_token() == "of a file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the variable")
    assert tokens.client_token() == "of the variable"
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert tokens.client_token() is None
    assert tokens.known_tokens() == ["of the variable"]


def test_a_path_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH is /nowhere/token: No such file"):
        tokens.client_token()


def test_the_token_of_a_search_on_this_machine_is_no_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "own")
    monkeypatch.setattr(tokens, "HAS_OWN_TOKEN", True)
    assert tokens.client_token() is None
    assert tokens.known_tokens() == ["own"]
