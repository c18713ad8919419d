"""The bridge into ns-process-data, in interpreters that see nothing but what a test gives them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PTH = ROOT / "easi3r_ns" / "easi3r_ns.pth"
ENTRY_POINTS = """\
[nerfstudio.processors]
easi3r = easi3r_ns.cli.run:ProcessEasi3R
"""
STAND_IN = """\
import dataclasses, sys
from typing import Annotated, Union
import tyro

@dataclasses.dataclass
class Images:
    '''The images of nerfstudio.'''
    def main(self): print("ran images")

@dataclasses.dataclass
class Video:
    def main(self): print("ran video")

Commands = Union[
    Annotated[Images, tyro.conf.subcommand(name="images")],
    Annotated[Video, tyro.conf.subcommand(name="video")],
]

def entrypoint():
    try:
        tyro.cli(Commands).main()
    except (RuntimeError, ValueError) as e:
        print("swallowed", e)

if __name__ == "__main__":
    entrypoint()
"""
NAMES = """
from nerfstudio.scripts.process_data import Commands
print(*(member.__metadata__[0].name for member in Commands.__args__))
"""


class Site:
    """A folder that plays site-packages: our .pth, entry points, the package itself and a stand-in for nerfstudio."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / PTH.name).write_text(PTH.read_text())
        (folder / "easi3r_ns").symlink_to(ROOT / "easi3r_ns")
        self.nerfstudio(STAND_IN)
        self.entry_points(ENTRY_POINTS)

    def nerfstudio(self, source: str) -> None:
        scripts = self.folder / "nerfstudio" / "scripts"
        scripts.mkdir(parents=True, exist_ok=True)
        for package in (scripts, scripts.parent):
            (package / "__init__.py").touch()
        (scripts / "process_data.py").write_text(source)

    def entry_points(self, text: str, distribution: str = "a") -> None:
        info = self.folder / f"{distribution}-1.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(text)

    def run(self, code: str, *, argv: str = "", load: str = "site.addsitedir(here)", **environment: str):
        """Run code after start-up as Python does it for a site folder, without the .pth files of this environment."""
        libraries = [sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]
        start = (
            f"import sys, site; here = {str(self.folder)!r}; sys.path[1:1] = [here]; {load}; sys.path += {libraries}"
        )
        full = f"{start}; sys.argv = ['ns-process-data', *{argv.split()}]\n{code}"
        variables = {name: value for name, value in os.environ.items() if name != "EASI3R_NS_NO_BRIDGE"}
        return subprocess.run(
            [sys.executable, "-S", "-c", full],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            env=variables | {"PYTHONPATH": "", "COLUMNS": "100"} | environment,
        )


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def names(site: Site, **options: str) -> list[str]:
    result = site.run(NAMES, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_command_is_added_once_and_the_others_stay(site: Site) -> None:
    assert names(site) == ["images", "video", "easi3r"]


def test_two_bridges_and_two_distributions_make_one_command(site: Site) -> None:
    site.entry_points(ENTRY_POINTS, distribution="b")
    assert names(site, load="site.addsitedir(here); site.addsitedir(here)") == ["images", "video", "easi3r"]


def test_other_packages_may_join(site: Site) -> None:
    (site.folder / "other.py").write_text("class P:\n def main(self): pass\n")
    site.entry_points("[nerfstudio.processors]\nother = other:P\n", distribution="b")
    assert names(site) == ["images", "video", "easi3r", "other"]


def test_a_processor_may_parse_its_own_arguments(site: Site) -> None:
    own = "class P:\n def main(self): pass\n @staticmethod\n def command_line(words, program): print(program, words)\n"
    (site.folder / "other.py").write_text(own)
    site.entry_points("[nerfstudio.processors]\nother = other:P\n", distribution="b")
    code = "from nerfstudio.scripts.process_data import entrypoint; entrypoint()"
    assert site.run(code, argv="other --gpu 3").stdout == "ns-process-data other ['--gpu', '3']\n"
    assert site.run(code, argv="video").stdout == "ran video\n"


@pytest.mark.slow
def test_habits_of_nerfstudio_are_understood_inside_it(site: Site) -> None:
    code = "from nerfstudio.scripts.process_data import entrypoint; entrypoint()"
    argv = "easi3r --data gone.mp4 --output-dir out --matching-method sequential --no-gpu"
    result = site.run(code, argv=argv, load="site.addsitedir(here)")
    assert result.returncode == 2 and "note: --no-gpu is --device cpu here" in result.stderr
    assert "gone.mp4 does not exist" in result.stderr and "Unrecognized" not in result.stderr
    shown = site.run(code, argv="easi3r --help").stdout
    assert shown.startswith("usage: ns-process-data easi3r --data PATH") and len(shown.splitlines()) < 60


def test_names_of_nerfstudio_win(site: Site) -> None:
    site.entry_points("[nerfstudio.processors]\nimages = easi3r_ns.cli.run:ProcessEasi3R\n")
    result = site.run("from nerfstudio.scripts.process_data import entrypoint; entrypoint()", argv="images")
    assert result.stdout == "ran images\n"


def test_nerfstudio_that_lists_the_command_itself(site: Site) -> None:
    site.nerfstudio(STAND_IN.replace('"video"', '"easi3r"'))
    assert names(site) == ["images", "easi3r"]


@pytest.mark.parametrize("value", ["1", "yes"])
def test_switch_off(site: Site, value: str) -> None:
    assert names(site, EASI3R_NS_NO_BRIDGE=value) == ["images", "video"]


@pytest.mark.parametrize("value", ["0", ""])
def test_switch_that_is_not_on(site: Site, value: str) -> None:
    assert names(site, EASI3R_NS_NO_BRIDGE=value) == ["images", "video", "easi3r"]


@pytest.mark.parametrize(
    "module",
    [
        "raise RuntimeError('first line\\nsecond line')",
        "import sys; sys.exit(3)",
        "import nothing_of_this_name",
        "P = 1",
    ],
)
def test_broken_processor_is_one_line_and_hurts_nobody(site: Site, module: str) -> None:
    (site.folder / "broken.py").write_text(module)
    site.entry_points("[nerfstudio.processors]\nbroken = broken:P\n", distribution="b")
    result = site.run("from nerfstudio.scripts.process_data import entrypoint; entrypoint()", argv="video")
    assert (result.returncode, result.stdout) == (0, "ran video\n")
    assert len(result.stderr.splitlines()) == 1
    assert "ns-process-data broken is not available" in result.stderr
    assert names(site) == ["images", "video", "easi3r"]


def test_unexpected_nerfstudio_is_one_line(site: Site) -> None:
    site.nerfstudio("x = 1")
    result = site.run("import nerfstudio.scripts.process_data as p; print(p.x)")
    assert (result.returncode, result.stdout) == (0, "1\n")
    assert len(result.stderr.splitlines()) == 1


def test_python_dash_m(site: Site) -> None:
    code = "import runpy; runpy.run_module('nerfstudio.scripts.process_data', run_name='__main__', alter_sys=True)"
    assert site.run(code, argv="images").stdout == "ran images\n"
    assert "easi3r" in site.run(code, argv="--help").stdout


def test_module_keeps_its_source_and_place(site: Site) -> None:
    code = "import inspect, nerfstudio.scripts.process_data as p\nprint(p.__file__)\nprint(inspect.getsource(p.Images))"
    result = site.run(code)
    assert str(site.folder / "nerfstudio" / "scripts" / "process_data.py") in result.stdout
    assert "The images of nerfstudio" in result.stdout


def test_package_removed_but_pth_left(site: Site) -> None:
    (site.folder / "easi3r_ns").unlink()
    assert names(site) == ["images", "video"]
    (site.folder / "easi3r_ns").mkdir()
    assert names(site) == ["images", "video"]


def test_nerfstudio_absent(site: Site) -> None:
    (site.folder / "nerfstudio").rename(site.folder / "gone")
    code = "sys.path = [p for p in sys.path if 'site-packages' not in p]\nimport nerfstudio.scripts.process_data"
    result = site.run(code)
    assert result.stderr.splitlines()[-1].startswith("ModuleNotFoundError")
    assert "easi3r" not in result.stderr.splitlines()[-1]


def test_start_imports_nothing(site: Site) -> None:
    code = "print(*sorted(sys.modules))"
    with_bridge = site.run(code)
    assert with_bridge.stderr == ""
    (site.folder / PTH.name).unlink()
    assert with_bridge.stdout == site.run(code).stdout


def test_start_costs_less_than_a_millisecond() -> None:
    line = next(line for line in PTH.read_text().splitlines() if line.startswith("import"))
    finders = list(sys.meta_path)
    seconds = []
    try:
        for _ in range(50):
            start = time.perf_counter()
            exec(line, {})  # what site.py does with the line
            seconds.append(time.perf_counter() - start)
    finally:
        sys.meta_path[:] = finders
    assert min(seconds) < 1e-3  # what it costs where nothing else runs


@pytest.mark.slow
def test_real_nerfstudio_lists_the_command_and_keeps_the_others(site: Site) -> None:
    if find_spec("nerfstudio") is None:
        pytest.skip("nerfstudio is not installed")
    (site.folder / "nerfstudio").rename(site.folder / "stand_in")
    code = """
import contextlib, io
from nerfstudio.scripts.process_data import Commands, entrypoint
names = [member.__metadata__[0].name for member in Commands.__args__]
print(*names)
for name in ("", *names):
    sys.argv[1:] = [name, "--help"] if name else ["--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        entrypoint()
    # Frames and bullets around a command differ between releases of tyro.
    first_words = [next(iter(line.strip(" │|•*").split()), "") for line in out.getvalue().splitlines()]
    print(name or "top", "usage: ns-process-data" in out.getvalue(), first_words.count("easi3r"))
"""
    result = site.run(code)
    assert result.returncode == 0, result.stderr
    listed, *helps = result.stdout.splitlines()
    assert listed.split()[:2] == ["images", "video"]
    assert listed.split().count("easi3r") == 1
    assert helps[0] == "top True 1"
    assert all(line.split()[1] == "True" for line in helps) and len(helps) == len(listed.split()) + 1
