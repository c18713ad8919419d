from __future__ import annotations

import sys

import pytest

from easi3r_ns.core.errors import MissingExtraError
from easi3r_ns.core.optional import load_open3d
from easi3r_ns.core.registry import Entry


def test_an_entry_imports_nothing_until_it_is_loaded():
    entry = Entry("nothing", "no.such.module", "")
    with pytest.raises(ModuleNotFoundError):
        entry.load("EXPORTER")
    assert Entry("pi", "math", "").load("pi") == pytest.approx(3.14159, abs=1e-5)


def test_open3d_that_does_not_load_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "open3d", None)
    with pytest.raises(MissingExtraError, match="open3d does not load .*: .*apt-get install libusb-1.0-0"):
        load_open3d()
