"""The command that adds an extra fits the way in which the package was installed."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import pytest

from easi3r_ns.core import install


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (None, "pip install 'easi3r-ns[eval]'"),
        ("not JSON", "pip install 'easi3r-ns[eval]'"),
        ("[1]", "pip install 'easi3r-ns[eval]'"),
        (
            {"url": "file:///home/me/my%20checkout", "dir_info": {"editable": True}},
            "pip install -e '/home/me/my checkout[eval]'",
        ),
        ({"url": "file:///home/me/checkout", "dir_info": {}}, "pip install '/home/me/checkout[eval]'"),
        (
            {"url": "file:///tmp/easi3r_ns-0.1-py3-none-any.whl", "archive_info": {}},
            "pip install '/tmp/easi3r_ns-0.1-py3-none-any.whl[eval]'",
        ),
        (
            {"url": "https://example.org/x/easi3r-ns.git", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "pip install 'easi3r-ns[eval] @ git+https://example.org/x/easi3r-ns.git'",
        ),
    ],
)
def test_commands(recorded, expected: str, monkeypatch) -> None:
    text = recorded if isinstance(recorded, str) or recorded is None else json.dumps(recorded)
    monkeypatch.setattr(install, "distribution", lambda name: SimpleNamespace(read_text=lambda file: text))
    assert install.install_extra("eval") == expected
    assert shlex.split(expected)[:2] == ["pip", "install"]


def test_without_a_distribution(monkeypatch) -> None:
    def missing(name: str) -> None:
        raise install.PackageNotFoundError(name)

    monkeypatch.setattr(install, "distribution", missing)
    assert install.install_extra("rerun") == "pip install 'easi3r-ns[rerun]'"
