"""Downloads from the hub: what is fetched and compared, and one line with the remedy for whatever fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from easi3r_ns.cli import main as cli
from easi3r_ns.core.errors import CheckpointError
from easi3r_ns.network import hub as module
from easi3r_ns.network import hub_errors, sources, weights
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import DUSt3R
from tests.support.fake_hub import (
    COMMIT,
    REPOSITORY,
    FakeHub,
    altering,
    babbling,
    breaking,
    point_at,
    refusing,
    serve,
    silent,
)
from tests.support.helpers import Lines
from tests.support.read_only import make_read_only

ROOT = Path(__file__).parents[2]
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    config = DUSt3RConfig(
        *(16, 32, 1, 2, 32, 1, 2),
        head_type="linear",
    )
    torch.manual_seed(0)
    return {"config.json": json.dumps(vars(config)).encode(), WEIGHTS: save(dict(DUSt3R(config).state_dict()))}


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with serve(dict(files)) as fake:
        point_at(fake.url, monkeypatch)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(tmp_path / "by-hand"))
        yield fake
    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()


def failure(spec: str = REPOSITORY) -> str:
    """The message of a download that fails, which is one line."""
    with pytest.raises(CheckpointError) as caught:
        sources.resolve(spec)
    message = str(caught.value)
    assert "\n" not in message and f"--weights {spec}" in message
    return message


def blob(path: Path) -> Path:
    return path.resolve()


def damage(path: Path, how: str) -> None:
    content = bytearray(blob(path).read_bytes())
    if how == "cut":
        content = content[:-100]
    elif how == "altered":
        content[-3] ^= 1
    else:
        content = bytearray()
    blob(path).write_bytes(content)


def test_files_are_fetched_once_and_their_commit_is_recorded(hub: FakeHub, files: dict[str, bytes]) -> None:
    log = Lines()
    source = sources.resolve(REPOSITORY, log=log)
    assert source.path.read_bytes() == files[WEIGHTS] and source.config_path.read_bytes() == files["config.json"]
    assert [line for line in log.said if line.startswith(f"downloading {REPOSITORY}")] and not log.warnings
    assert weights.describe(source)[1].provenance()["hub_revision"] == COMMIT
    asked = len(hub.asked)
    assert sources.resolve(REPOSITORY) == source and len(hub.asked) == asked, "the cache needs no connection"


def test_a_dropped_connection_is_resumed_where_it_broke(hub: FakeHub, files: dict[str, bytes], monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.fault = breaking(after=2000, times=2)
    assert sources.resolve(REPOSITORY).path.read_bytes() == files[WEIGHTS]
    assert hub.fetched(WEIGHTS) == [None, "bytes=2000-", "bytes=4000-"]


def test_what_changes_on_the_way_is_fetched_once_more(hub: FakeHub, files: dict[str, bytes]) -> None:
    hub.fault = altering(times=1)
    log = Lines()
    assert sources.resolve(REPOSITORY, log=log).path.read_bytes() == files[WEIGHTS]
    assert len(hub.fetched(WEIGHTS)) == 2 and any("once more" in line for line in log.said)
    (Path(sources.resolve(REPOSITORY).path).resolve()).unlink()
    hub.fault = altering(times=5)
    message = failure()
    assert WEIGHTS in message and "the hub states" in message and "twice in a row" in message


@pytest.mark.parametrize("how", ["cut", "empty"])
@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
def test_a_file_that_was_cut_off_is_fetched_anew(how: str, file: str, hub: FakeHub, files: dict[str, bytes]) -> None:
    path = sources.resolve(REPOSITORY).path.with_name(file)
    damage(path, how)
    with pytest.raises(sources.NotAvailableError, match=f"{file} is damaged"):
        sources.resolve(REPOSITORY, download=False)
    log = Lines()
    assert sources.resolve(REPOSITORY, log=log).path.with_name(file).read_bytes() == files[file]
    assert len(log.warnings) == 1 and str(path) in log.warnings[0] and "fetched anew" in log.warnings[0]
    damage(path, how)
    hub.fault = refusing(503)
    assert "is damaged" in (message := failure()) and "answers 503" in message


def test_weights_fetch_compares_the_hash(hub: FakeHub, files: dict[str, bytes], capsys: pytest.CaptureFixture) -> None:
    path = sources.resolve(REPOSITORY).path
    cli.main(["weights", "fetch", REPOSITORY])
    assert len(hub.fetched(WEIGHTS)) == 1, "intact files stay"
    damage(path, "altered")
    assert sources.resolve(REPOSITORY).path == path, "a run does not read gigabytes first"
    cli.main(["weights", "fetch", REPOSITORY])
    output = capsys.readouterr()
    assert path.read_bytes() == files[WEIGHTS] and "damaged" in "".join(output.err.split())
    assert output.out.strip().endswith(str(path))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (refusing(401), "answers 401 no repository check the name HF_TOKEN"),
        (refusing(401, code="GatedRepo"), "answers 401 terms HF_TOKEN"),
        (refusing(403, code="GatedRepo"), "answers 403 terms HF_TOKEN"),
        (refusing(403), "answers 403 terms HF_TOKEN"),
        (refusing(404, code="RepoNotFound"), "answers 404 no repository"),
        (refusing(404, code="EntryNotFound"), "answers 404 config.json does not exist"),
        (refusing(418), "answers 418 HF_ENDPOINT"),
        (refusing(429), "answers 429 too many requests wait"),
        (refusing(500), "answers 500 try again later HF_ENDPOINT"),
        (refusing(503), "answers 503 try again later"),
        (refusing(403, of="GET"), "answers 403"),
        (refusing(429, of="GET"), "answers 429"),
        (refusing(502, of="GET"), "answers 502"),
        (babbling("HEAD"), "the connection to broke"),
        (babbling("GET"), "the connection to broke"),
        (silent("HEAD"), "answer"),
        (silent("GET"), "stopped answering HF_HUB_DOWNLOAD_TIMEOUT"),
        (breaking(after=0, times=99), "the connection to broke"),
    ],
)
def test_a_refusal_is_one_line_with_the_remedy(fault, words: str, hub: FakeHub, monkeypatch) -> None:
    monkeypatch.setattr(module, "HUB_SECONDS", 0.5)
    hub.fault = fault
    message = failure()
    for word in words.split():
        assert word in message, (word, message)
    assert hub.url in message and "on a machine with network" in message


def test_an_unknown_revision_is_named(hub: FakeHub) -> None:
    assert "no such revision" in failure(f"{REPOSITORY}@v9")
    assert sources.resolve(f"{REPOSITORY}@{COMMIT}").hub_revision == COMMIT


def test_no_server_no_certificate_no_proxy(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    closed = "127.0.0.1:9"
    point_at(f"http://{closed}", monkeypatch)
    assert f"no connection to http://{closed}" in failure()
    point_at(hub.url.replace("http:", "https:"), monkeypatch)
    assert "no secure connection" in (message := failure()) and "SSL_CERT_FILE" in message
    if hasattr(huggingface_hub, "close_session"):
        huggingface_hub.close_session()  # which reads the proxies anew
    point_at("http://hub.invalid", monkeypatch)
    monkeypatch.setenv("HTTP_PROXY", f"http://me:secret@{closed}")
    message = failure()
    assert closed in message and "proxy" in message and "secret" not in message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("Data processing error: CAS service error"), "Xet HF_HUB_DISABLE_XET=1 CAS"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "no space is left in HF_HUB_CACHE"),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES)), "cannot be written HF_HUB_CACHE"),
        (KeyError("a bug of a library"), "does not deliver"),
    ],
)
def test_what_breaks_on_this_machine_is_one_line_too(error: Exception, words: str, hub: FakeHub, monkeypatch) -> None:
    def fail(*_: object, **options: object) -> str:
        raise FileNotFoundError if options.get("local_files_only") else error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    message = failure()
    for word in words.split():
        assert word in message, (word, message)


def test_a_full_disk_while_writing(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __init__(self, file) -> None:
            self.file = file

        def __getattr__(self, name: str):
            return getattr(self.file, name)

        def write(self, chunk: bytes) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from huggingface_hub import file_download

    get = file_download.http_get
    monkeypatch.setattr(file_download, "http_get", lambda url, file, **options: get(url, Full(file), **options))
    assert "no space is left in" in failure() and hub.fetched("config.json") == [None]
    assert not list(Path(file_download.constants.HF_HUB_CACHE).rglob(WEIGHTS))


def test_a_cache_that_cannot_be_written(hub: FakeHub, tmp_path: Path, files, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.resolve(REPOSITORY)
    make_read_only(tmp_path / "hub", monkeypatch)
    asked = len(hub.asked)
    assert sources.resolve(REPOSITORY) == source == sources.resolve(REPOSITORY, thorough=True)
    assert len(hub.asked) == asked
    assert "answers 404" in failure("someone/else")
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    make_read_only(tmp_path / "empty", monkeypatch)
    message = failure()
    assert "cannot be written" in message and str(tmp_path / "empty") in message and "HF_HUB_CACHE" in message


def test_offline_uses_the_cache_and_asks_nobody(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = sources.resolve(REPOSITORY)
    asked = len(hub.asked)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert sources.resolve(REPOSITORY, thorough=True) == source
    damage(source.path, "cut")
    begin = time.perf_counter()
    assert "HF_HUB_OFFLINE" in (message := failure()) and "is damaged" in message
    assert len(hub.asked) == asked and time.perf_counter() - begin < 5


def test_pinned_weights_are_the_pinned_ones(hub: FakeHub, files: dict[str, bytes], monkeypatch) -> None:
    right = hashlib.sha256(files[WEIGHTS]).hexdigest()

    def know(revision: str | None, sha256: str | None) -> None:
        known = sources.KnownWeights("theirs", "a test", "MIT", REPOSITORY, DUSt3RConfig(), revision, sha256)
        monkeypatch.setitem(sources.KNOWN, "theirs", known)

    know(COMMIT, 64 * "0")
    assert f"the known one is {64 * '0'}" in (message := failure("theirs")) and right in message
    assert not hub.fetched(WEIGHTS)
    know(COMMIT, right)
    assert sources.resolve("theirs").hub_revision == COMMIT
    know(None, None)
    assert sources.reason_against_download("theirs") is None


def test_the_environment_names_mirror_cache_and_offline_use(hub: FakeHub, tmp_path: Path) -> None:
    """A process of its own: huggingface_hub reads its variables when it is imported."""
    code = "import sys; from easi3r_ns.network.sources import resolve; print(resolve(sys.argv[1]).path)"
    variables = {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "other"), "NO_PROXY": "127.0.0.1"}
    for offline in ("0", "1"):
        environment = os.environ | variables | {"HF_HUB_OFFLINE": offline}
        command = [sys.executable, "-c", code, REPOSITORY]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert done.returncode == 0 and str(tmp_path / "other") in done.stdout, done.stderr
    assert len(hub.fetched(WEIGHTS)) == 1


def test_hosts_that_need_no_proxy_are_not_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        urllib.request, "getproxies", lambda: {"no": "localhost,127.0.0.1", "https": "http://me:secret@proxy.org:3128"}
    )
    assert hub_errors._proxies() == "proxy.org:3128"
    monkeypatch.setattr(urllib.request, "getproxies", lambda: {"no": "localhost,127.0.0.1"})
    assert hub_errors._proxies() == ""
