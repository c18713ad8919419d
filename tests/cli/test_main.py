"""`easi3r`: exit codes, one-line errors, weights and doctor."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import tyro
from safetensors.torch import save_file

from easi3r_ns import __version__
from easi3r_ns.cli import doctor
from easi3r_ns.cli import main as cli
from easi3r_ns.cli import run as processor
from easi3r_ns.core.errors import AlignmentError, CheckpointError, Easi3RError, InputError, OutputError
from easi3r_ns.network import models as optional
from easi3r_ns.network import sources
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.model import DUSt3R

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(tmp_path / "weights"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    config = DUSt3RConfig(
        enc_embed_dim=32,
        enc_depth=1,
        enc_num_heads=2,
        dec_embed_dim=32,
        dec_depth=1,
        dec_num_heads=2,
        head_type="linear",
    )
    torch.manual_seed(0)
    save_file(dict(DUSt3R(config).state_dict()), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(vars(config)))
    (folder / "card.json").write_text(
        json.dumps(
            {"licence": "Apache-2.0", "dynamic_score": {"mean_src": 0, "std_src": 1, "mean_ref": -1, "std_ref": 0}}
        )
    )
    return folder


def code_of(*arguments: str) -> int:
    try:
        cli.main(arguments)
    except SystemExit as exit_request:
        return int(exit_request.code or 0)
    return 0


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("--version") == 0
    assert capsys.readouterr().out == f"easi3r-ns {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["weights"],
        ["run"],
        ["run", "--data", "x"],
        ["run", "--data", "x", "--output-dir", "y", "--num-frames-target", "1"],
        ["run", "--data", "x", "--output-dir", "y", "--masks", "m", "--no-masks"],
        ["run", "--data", "x", "--output-dir", "y", "--align.iterations", "-1"],
        ["run", "--data", "x", "--output-dir", "y", "--device", "tpu"],
    ],
)
def test_wrong_options_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_options_that_contradict_are_told_in_one_line_of_our_own(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, told in (
        (["--align.iterations", "-1"], "--align.iterations -1: give a number at least 0"),
        (["--num-frames-target", "1"], "--num-frames-target 1: give 0 (all frames) or at least 2"),
        (["--masks", "m", "--no-masks"], "--masks and --no-masks contradict each other: give one of them"),
    ):
        assert code_of("run", "--data", "x", "--output-dir", "y", *arguments) == InputError.exit_code
        assert capsys.readouterr().err == f"error: {told}\n"


def test_other_usage_errors_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("run", "--data", "x", "--output-dir", "y", "--foo") == 2
    assert "Unrecognized options: --foo" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [("run", "--data", "x"), ("import", "x"), ("export", "x"), ("evaluate", "folder", "--root", "x")],
    ids=lambda arguments: arguments[0],
)
def test_an_empty_output_folder_is_refused(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be the present folder: what an unset variable of a script leads to."""
    monkeypatch.chdir(tmp_path)
    for nothing in ("", " "):
        assert code_of(*arguments, "--output-dir", nothing) == 2
        assert "--output-dir" in (error := capsys.readouterr().err) and "empty" in error
    assert list(tmp_path.iterdir()) == []


def test_weights_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("weights", "list") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, known in sources.KNOWN.items():
        line = next(line for line in lines if line.startswith(f"{name} "))
        assert known.licence in line


def test_weights_info(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("weights", "info", str(checkpoint)) == 0
    text = capsys.readouterr().out
    for part in ("Apache-2.0", "std_src * (1 - mean_ref)", "enc_depth 1", str(checkpoint / "model.safetensors")):
        assert part in text


def test_weights_that_are_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("weights", "fetch", "monst3r") == CheckpointError.exit_code
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "Junyi42/MonST3R_PO-TA-S-W_ViTLarge_BaseDecoder_512_dpt" in error


@pytest.mark.parametrize("name", [name for name in sources.KNOWN if name != "tiny"])
def test_the_licence_is_shown_before_anything_is_downloaded(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("weights", "info", name) == 0
    text = capsys.readouterr().out
    assert sources.KNOWN[name].licence in text and sources.KNOWN[name].hub_repo in text
    assert f"easi3r weights fetch {name}" in text


def test_information_about_unknown_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("weights", "info", "dust4r") == CheckpointError.exit_code
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_weights_fetch_of_what_is_here(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("weights", "fetch", str(checkpoint)) == 0
    assert capsys.readouterr().out.strip() == str(checkpoint / "model.safetensors")


@pytest.mark.parametrize("bad", [True, False])
def test_doctor_exit_code(bad: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    checks = [doctor.Check("a", "ok", "fine"), doctor.Check("b", "bad" if bad else "note", "[not markup]")]
    monkeypatch.setattr(doctor, "examine", lambda: checks)
    assert code_of("doctor") == int(bad)
    assert "[not markup]" in capsys.readouterr().out


def test_doctor_looks_at_everything() -> None:
    checks = {check.name: check for check in doctor.examine()}
    extras = [f"extra {name}" for name in doctor.EXTRAS]
    models = [f"- {name}" for name in (*sources.KNOWN, "raft", *optional.MODELS)]
    libraries = "python torch nerfstudio bridge video open3d pycolmap patchmatch features".split()
    assert list(checks) == [*libraries, *extras, "weights", *models, "offline", "disk"]
    for name, known in sources.KNOWN.items():
        assert known.licence in checks[f"- {name}"].detail
    assert checks["- tiny"].state == "ok" and "easi3r weights fetch dust3r" in checks["- dust3r"].detail
    assert checks["offline"].state == "ok" and "runs as --weights none" in checks["offline"].detail
    assert checks["torch"].detail.startswith(torch.__version__)


def test_doctor_says_what_the_default_would_do_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._default({"pycolmap": "bad"}).state == "bad"
    monkeypatch.setattr(doctor, "_is_here", lambda name: True)
    assert doctor._default({"pycolmap": "bad"}).state == "ok"


def test_doctor_says_how_to_install_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    check = doctor._extra("eval", "evo", "scores")
    assert check.state == "note" and "pip install" in check.detail and "[eval]" in check.detail


def test_doctor_names_a_command_that_is_understood(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: [])
    assert code_of("doctor") == 0
    (line,) = capsys.readouterr().out.splitlines()
    words = shlex.split(line.removeprefix("try first  "))
    parsed = tyro.cli(processor.ProcessEasi3R, args=words[2:])
    assert parsed.data.is_file() and parsed.config.weights == "tiny"
    monkeypatch.setattr(doctor, "EXAMPLE", Path("gone"))
    assert "YOUR_CLIP.mp4" in doctor.first_command()


def test_doctor_says_how_to_get_missing_libraries() -> None:
    def load() -> str:
        raise OSError("libGL.so.1: cannot open shared object file")

    check = doctor._importable("open3d", load, "; apt install libgl1")
    assert check == doctor.Check("open3d", "bad", "libGL.so.1: cannot open shared object file; apt install libgl1")


@pytest.mark.parametrize("error", [InputError, CheckpointError, AlignmentError, OutputError, Easi3RError])
def test_own_errors_are_one_line(error: type[Easi3RError], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, processor.exit_on_error():
        raise error("the value [1] and the remedy " + "x" * 200)
    assert caught.value.code == error.exit_code != 0
    assert capsys.readouterr().err == "error: the value [1] and the remedy " + "x" * 200 + "\n"


def test_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, processor.exit_on_error():
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_bugs_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, processor.exit_on_error():
        raise RuntimeError("a bug")
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "RuntimeError: a bug" in error and "test_main.py" in error


def test_exit_code_reaches_the_shell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "easi3r_ns", "weights", "info", str(tmp_path / "missing.pth")]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, env=os.environ | {"COLUMNS": "40"}
    )
    assert result.returncode == 3
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: --weights {tmp_path / 'missing.pth'}: no such file or folder; ")
    assert line.endswith(", ".join(sources.KNOWN))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal for one process")
def test_interrupted_run_says_so_and_goes_on_later(tmp_path: Path) -> None:
    """Ctrl-C after the encoder: code 130, one line, nothing that looks like a dataset."""
    clip = ROOT / "examples" / "clip" / "clip.mp4"
    if not clip.exists() or not (sources.BUNDLED / "tiny" / "model.safetensors").exists():
        pytest.skip("needs the example clip and the tiny weights")
    command = [sys.executable, "-m", "easi3r_ns", "run", "--data", clip, "--output-dir", tmp_path, "--weights", "tiny"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        # A background job of a script ignores Ctrl-C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    # However slow the machine is, it ends some day: with a wrong exit code then.
    watchdog = threading.Timer(1200, process.kill)
    watchdog.start()
    said = []
    try:
        for line in process.stderr:
            said.append(line.strip())
            if line.startswith("done  show each frame to the network"):
                process.send_signal(signal.SIGINT)
        assert process.wait() == 130, said
    finally:
        watchdog.cancel()
        process.kill()
    assert said[-1].startswith("interrupted") and not any("Traceback" in line for line in said)
    assert not (tmp_path / "transforms.json").exists()
