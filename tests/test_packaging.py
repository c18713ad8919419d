"""Wheel and editable install, each in an environment of its own, as a user gets them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
BUILD = ["--no-deps", "--no-build-isolation", "--no-index"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("nerfstudio") is None, reason="nerfstudio is not installed"),
    pytest.mark.skipif(find_spec("hatchling") is None, reason="hatchling is not installed (pip install .[test])"),
    pytest.mark.skipif(find_spec("pip") is None, reason="pip is not installed"),
]


of_the_wheel = pytest.mark.parametrize("python", ["wheel"], indirect=True)
"""For what takes nerfstudio's own time and does not depend on how the project was installed."""


def call(*command: str | Path, **variables: str) -> str:
    hidden = ("PYTHONPATH", "EASI3R_NS_NO_BRIDGE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT.parent,
        env=environment | {"COLUMNS": "100"} | variables,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(*PIP, "wheel", *BUILD, "--wheel-dir", folder, ROOT)
    return next(folder.glob("easi3r_ns-*.whl"))


@pytest.fixture(scope="module", params=["wheel", "editable"])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the project installed.

    The dependencies are borrowed from the environment that runs the tests, by a path that does not read its .pth files:
    an installation of the project over there stays invisible.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    interpreter = folder / "bin" / "python"
    purelib = call(interpreter, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip()
    borrowed = dict.fromkeys((sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]))
    (Path(purelib) / "zz_borrowed.pth").write_text("\n".join(borrowed) + "\n")
    what = [request.getfixturevalue("wheel")] if request.param == "wheel" else ["--editable", ROOT]
    call(*PIP, "--python", interpreter, "install", "--force-reinstall", *BUILD, *what)
    return interpreter


def process_data(python: Path, *arguments: str, **variables: str) -> str:
    """``ns-process-data``, as the console script of nerfstudio calls it."""
    script = "import sys; from nerfstudio.scripts.process_data import entrypoint; sys.argv[0] = 'ns-process-data'"
    return call(python, "-c", f"{script}; entrypoint()", *arguments, **variables)


def commands(helptext: str) -> list[str]:
    listed = helptext.split("{", 1)[1].split("}", 1)[0]
    return listed.replace("\n", "").replace(" ", "").split(",")


def test_the_installation_under_test_is_the_fresh_one(python: Path) -> None:
    place = Path(call(python, "-c", "import easi3r_ns; print(easi3r_ns.__file__)").strip())
    assert place.is_relative_to(python.parent.parent) or place.is_relative_to(ROOT)


def test_command_is_listed_once_and_works(python: Path) -> None:
    assert commands(process_data(python, "--help")).count("easi3r") == 1
    assert "--num-frames-target" in process_data(python, "easi3r", "--help")


@pytest.mark.long
@of_the_wheel
def test_other_commands_still_work(python: Path) -> None:
    code = """
import contextlib, io, sys
from nerfstudio.scripts.process_data import Commands, entrypoint
for name in [member.__metadata__[0].name for member in Commands.__args__]:
    sys.argv = ["ns-process-data", name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        entrypoint()
    print(name, f"usage: ns-process-data {name}" in out.getvalue())
"""
    lines = call(python, "-c", code).splitlines()
    assert {"images True", "video True", "record3d True", "easi3r True"} <= set(lines)
    assert not [line for line in lines if line.endswith("False")]


@pytest.mark.long
@of_the_wheel
def test_python_dash_m(python: Path) -> None:
    assert commands(call(python, "-m", "nerfstudio.scripts.process_data", "--help")).count("easi3r") == 1


@pytest.mark.long
@of_the_wheel
def test_switch_off(python: Path) -> None:
    assert "easi3r" not in commands(process_data(python, "--help", EASI3R_NS_NO_BRIDGE="1"))


def test_console_script(python: Path) -> None:
    script = python.parent / "easi3r"
    assert "easi3r-ns" in call(script, "--version")
    assert "doctor" in call(script, "--help")


def test_dataparser_is_announced(python: Path) -> None:
    code = (
        "from importlib.metadata import entry_points\n"
        "names = {e.name: e.load() for e in entry_points(group='nerfstudio.dataparser_configs')}\n"
        "print(type(names['easi3r-data']).__name__)"
    )
    assert call(python, "-c", code).strip() == "DataParserSpecification"


@pytest.mark.slow
@of_the_wheel
def test_method_is_listed_and_its_options_are_shown(python: Path) -> None:
    code = (
        "import sys; from nerfstudio.scripts.train import entrypoint; from nerfstudio.configs import method_configs\n"
        "print(method_configs.all_descriptions['splatfacto-easi3r']); sys.argv[0] = 'ns-train'; entrypoint()"
    )
    shown = call(python, "-W", "ignore", "-c", code, "splatfacto-easi3r", "--help")
    assert "splatfacto on the static parts of the images" in shown.splitlines()[0]
    assert "usage: ns-train splatfacto-easi3r" in shown
    assert "--pipeline.model.depth-weight" in shown and "(default: easi3r-data)" in shown


@pytest.mark.long
@of_the_wheel
def test_method_can_be_imported_before_nerfstudio_finds_it(python: Path) -> None:
    code = (
        "from easi3r_ns.plugin.splatfacto.specification import SplatfactoEasi3RSpecification as ours\n"
        "from nerfstudio.configs.method_configs import all_methods\n"
        "print(all_methods['splatfacto-easi3r'] is ours.config)"
    )
    assert call(python, "-W", "ignore", "-c", code).splitlines()[-1] == "True"


def test_start_loads_nothing(python: Path) -> None:
    code = "import sys; print([m for m in ('easi3r_ns', 'torch', 'nerfstudio', 'tyro', 'logging') if m in sys.modules])"
    assert call(python, "-c", code).strip() == "[]"


def test_wheel_holds_what_it_should(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".pth")] == ["easi3r_ns.pth"]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"easi3r_ns", "easi3r_ns.pth"}
    kinds = (".py", ".jinja", ".css")
    in_package = {str(p.relative_to(ROOT)) for p in (ROOT / "easi3r_ns").rglob("*") if p.suffix in kinds}
    assert in_package <= set(names)
    metadata = next(name for name in names if name.endswith("METADATA"))
    lines = zipfile.ZipFile(wheel).read(metadata).decode().splitlines()
    assert "Requires-Dist: pycolmap>=4.2" in lines and "Provides-Extra: refine" in lines
    pretrained = {str(path.relative_to(ROOT)) for path in (ROOT / "easi3r_ns" / "pretrained").rglob("*.*")}
    assert pretrained <= set(names)
    assert wheel.stat().st_size < 30e6
