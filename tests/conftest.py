"""Fixtures of several modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, those with most of them at the head; within a file the order stays."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs of the tests neither use nor change what is known of this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EASI3R_NS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums come out the same on every machine, and small tensors gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
