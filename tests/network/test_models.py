"""Models of transformers: every way in which one cannot be had is one line, and a saved folder loads offline."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from easi3r_ns.cli import main as cli
from easi3r_ns.cli.doctor import examine
from easi3r_ns.core.errors import CheckpointError, Easi3RError, MemoryLimitError, MissingExtraError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.network import models
from easi3r_ns.network.models import Role, find_model, load_model, one_line_when_full, require_transformers
from tests.support.fake_hub import REPOSITORY, point_at, serve

ROLE = Role("--some-model", ("NetModel",), ("depth-anything", "depth-pro"), "leave it out")


class NetModel(torch.nn.Linear):
    """A stand-in for a class of transformers."""

    @classmethod
    def from_pretrained(cls, folder: Path, **_: object) -> tuple[NetModel, dict]:
        net, found = cls(2, 3), load_file(folder / "model.safetensors")
        missing = set(net.state_dict()) - set(found)
        if not missing:
            net.load_state_dict(found)
        return net, {"missing_keys": missing, "mismatched_keys": []}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library with one model, whose log is not its own."""
    fake, utils, logging = (ModuleType(f"transformers{part}") for part in ("", ".utils", ".utils.logging"))
    fake.NetModel, fake.__version__, fake.utils, utils.logging = NetModel, "5.0", utils, logging
    logging.CRITICAL = 50
    logging.get_verbosity, logging.is_progress_bar_enabled = (lambda: 30), (lambda: False)
    logging.set_verbosity, logging.disable_progress_bar = (lambda level: None), (lambda: None)
    for module in (fake, utils, logging):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(tmp_path / "by-hand"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = tmp_path / "net"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({"architectures": ["NetModel"]}), encoding="utf-8")
    save_file(NetModel(2, 3).state_dict(), made / "model.safetensors")
    return made


def one_line(kind: type[Easi3RError], call) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and "leave it out" in message and "--some-model" in message
    return message


def test_a_folder_loads(folder: Path, library: ModuleType) -> None:
    files = find_model(ROLE, str(folder), RunLog())
    net = load_model(ROLE, files, "cpu")
    assert not net.training and not net.weight.requires_grad
    assert torch.equal(net.weight, load_file(folder / "model.safetensors")["weight"])
    assert files.provenance == {"model": str(folder), "architecture": "NetModel", "licence": "unknown"}


def test_a_name_is_found_among_weights_by_hand(folder: Path) -> None:
    (folder.parent / "by-hand").mkdir()
    folder.rename(folder.parent / "by-hand" / "depth-anything")
    files = find_model(ROLE, "depth-anything", RunLog())
    assert files.licence == "Apache-2.0" and files.hub_repo == "depth-anything/Depth-Anything-V2-Small-hf"
    assert models.is_here("depth-anything") and not models.is_here("depth-pro")


def test_what_cannot_be_had(folder: Path) -> None:
    assert "HF_HUB_OFFLINE" in one_line(CheckpointError, lambda: find_model(ROLE, "depth-pro", RunLog()))
    assert "no such folder" in one_line(CheckpointError, lambda: find_model(ROLE, "./nowhere", RunLog()))
    assert "no such folder" in one_line(CheckpointError, lambda: find_model(ROLE, "sam3", RunLog()))
    file = str(folder / "config.json")
    assert "a file, not a folder" in one_line(CheckpointError, lambda: find_model(ROLE, file, RunLog()))


def test_wrong_folders(folder: Path) -> None:
    def told() -> str:
        return one_line(CheckpointError, lambda: find_model(ROLE, str(folder), RunLog()))

    config = folder / "config.json"
    config.write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', encoding="utf-8")
    assert "names LlamaForCausalLM, not NetModel" in told()
    config.write_text('{"model_type": "llama"}', encoding="utf-8")
    assert "no class (model_type llama)" in told()
    config.write_text("{", encoding="utf-8")
    assert "config.json is damaged" in told()
    config.write_text('{"architectures": ["NetModel"]}', encoding="utf-8")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "model.safetensors is damaged" in told()
    weights.unlink()
    assert "model.safetensors missing" in told()


def test_weights_of_another_model(folder: Path, library: ModuleType) -> None:
    save_file({"other": torch.zeros(1)}, folder / "model.safetensors")
    files = find_model(ROLE, str(folder), RunLog())
    assert "lacks 2 weights of NetModel" in one_line(CheckpointError, lambda: load_model(ROLE, files, "cpu"))


def test_missing_and_old_library(library: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require_transformers(ROLE, "depth-anything") is library
    del library.NetModel
    message = one_line(MissingExtraError, lambda: require_transformers(ROLE, "depth-anything"))
    assert "transformers 5.0 has no NetModel" in message
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "[models]" in one_line(MissingExtraError, lambda: require_transformers(ROLE, "depth-anything"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate")])
def test_out_of_memory(error: Exception) -> None:
    def call() -> None:
        with one_line_when_full(ROLE, "depth-anything", "give fewer frames"):
            raise error

    assert "out of memory: give fewer frames" in one_line(MemoryLimitError, call)


def test_download_names_the_licence_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    known = models.KnownModel("depth-anything", "a net", "Apache-2.0", REPOSITORY)
    monkeypatch.setitem(models.MODELS, "depth-anything", known)
    with serve(files) as hub, caplog.at_level("INFO"):
        point_at(hub.url, monkeypatch)
        found = find_model(ROLE, "depth-anything", RunLog())
        assert found.architecture == "NetModel" and found.hub_repo == REPOSITORY
        assert find_model(ROLE, REPOSITORY, RunLog(), download=False).licence == "Apache-2.0"
        assert len(hub.fetched("model.safetensors")) == 1
    assert f"downloading {REPOSITORY} (licence: Apache-2.0" in caplog.text


def test_weights_and_doctor_know_them(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["weights", "list"])
    listed = capsys.readouterr().out
    assert all(f"{name} " in listed for name in models.MODELS)
    checks = {check.name: check for check in examine()}
    assert checks["- depth-pro"].state == "note" and "easi3r weights fetch depth-pro" in checks["- depth-pro"].detail
    cli.main(["weights", "info", "depth-pro"])
    told = capsys.readouterr().out
    assert "apple-amlr" in told and "apple/DepthPro-hf" in told
    with pytest.raises(SystemExit):
        cli.main(["weights", "fetch", "depth-pro"])
    assert "HF_HUB_OFFLINE" in " ".join(capsys.readouterr().err.split())
