"""The pages for readers: links lead somewhere, the page of options is that of the code, what is shown runs."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import av
import cv2
import numpy as np
import open3d
import pytest
import tyro

from easi3r_ns.cli.main import main
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.report.page import write_report
from easi3r_ns.report.rules import Level
from tests.support.helpers import align_sim3
from tests.support.sphere_clip import write_clip

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
GUIDE = EXAMPLES / "guide"
PAGES = [ROOT / "README.md", ROOT / ".github" / "CONTRIBUTING.md", *sorted(GUIDE.glob("*.md"))]
README_LINES = 130
MOST_ERROR = 0.003
"""Of the length of the camera path of the example clip; the weights alone reach 0.094."""
EXAMPLE_LINES = 50
COMMANDS = (
    "run",
    "batch",
    "masks",
    "redo",
    "evaluate folder",
    "evaluate dataset",
    "evaluate set",
    "evaluate paper",
    "view",
    "edit",
    "report",
    "compare",
    "export",
    "check",
    "import",
    "improve",
    "plan",
    "doctor",
)


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_options", GUIDE / "make_options.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_options"] = module
    spec.loader.exec_module(module)
    return module


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, part = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        if part:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert part in map(anchor, headings), link


def test_every_page_is_in_the_index() -> None:
    index = (GUIDE / "README.md").read_text(encoding="utf-8")
    assert [
        page.name for page in GUIDE.glob("*.md") if page.name != "README.md" and f"]({page.name})" not in index
    ] == []


def test_the_front_page_and_the_examples_stay_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= README_LINES
    examples = sorted(EXAMPLES.glob("[0-9]*.py"))
    assert len(examples) >= 4
    for example in examples:
        assert len(example.read_text(encoding="utf-8").splitlines()) < EXAMPLE_LINES, example.name


def test_the_page_of_options_is_current(maker: ModuleType) -> None:
    assert maker.PAGE.read_text(encoding="utf-8") == maker.page(), "run python examples/guide/make_options.py"


def test_check_tells_an_old_page_from_a_current_one(maker, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(maker, "PAGE", tmp_path / "options.md")
    monkeypatch.setattr(sys, "argv", ["make_options.py", "--check"])
    with pytest.raises(SystemExit, match="out of date"):
        maker.main()
    assert not maker.PAGE.exists()
    monkeypatch.setattr(sys, "argv", ["make_options.py"])
    maker.main()
    monkeypatch.setattr(sys, "argv", ["make_options.py", "--check"])
    maker.main()
    maker.PAGE.write_text(maker.page().replace("`50`", "`51`"), encoding="utf-8")
    with pytest.raises(SystemExit, match="out of date"):
        maker.main()


def flags_of_the_parser(cls: type, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """The flags that tyro, which parses the command line, shows for a command."""
    with pytest.raises(SystemExit):
        tyro.cli(cls, args=["--help"])
    shown = set()
    for line in capsys.readouterr().out.splitlines():
        if re.match(r"[│ ] --?[a-z]", line):  # in a box on a terminal; the text of an option is indented further
            shown |= set(re.findall(r"(?<![\w-])--[a-z0-9.-]+", re.split(r"\s{2,}", line[2:])[0]))
    return shown


def flag_columns(text: str) -> str:
    """The flags in our help text: they stand two columns in, texts behind two spaces or in column 26 and beyond."""
    lines = [line[2:] for line in text.splitlines() if line.startswith("  --")]
    return "\n".join(line[:24] if " " in line[22:24] else line for line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_names_the_flags_that_help_shows(maker, command, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cls = dict(maker.commands(maker.Commands, "easi3r"))[f"easi3r {command}"]
    shown = flags_of_the_parser(cls, capsys)
    own, groups = maker.options_of(cls)
    rows = own + [row for group in groups for row in maker.options_of(group.cls, group.prefix, group.one_flag)[0]]
    told = {flag for row in rows for flag in row.flags if flag.startswith("--")}
    assert told == shown - {"--help"}
    assert all(row.text for row in rows)
    main([*command.split(), "--help-all"])
    assert told == set(re.findall(r"(?<![\w-])--[a-z0-9.-]+", flag_columns(capsys.readouterr().out)))


def python(*arguments: object, cwd: Path) -> str:
    """What a script prints, run with this checkout's package."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the quickstart: the folder that EASI3R_NS_QUICKSTART names, else it is made with its options."""
    if made := os.environ.get("EASI3R_NS_QUICKSTART"):
        return Path(made)
    folder = tmp_path_factory.mktemp("quickstart")
    clip = EXAMPLES / "clip" / "clip.mp4"
    python("-m", "easi3r_ns", "run", "--data", clip, "--output-dir", "out", "--weights", "tiny", cwd=folder)
    return folder / "out"


@pytest.mark.slow
def test_the_ten_lines_run(tmp_path: Path) -> None:
    """On the first frames of the example clip at half its size, which take a fraction of the time."""
    frames = 5
    with av.open(str(EXAMPLES / "clip" / "clip.mp4")) as container:
        first = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), frames)]
    write_clip(tmp_path / "clip.mp4", np.stack(first)[:, ::2, ::2])
    code = (GUIDE / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line]) == 10
    (tmp_path / "shown.py").write_text(code + "print(cameras.shape, moving.shape, moving.dtype, points.shape)\n")
    cameras, moving, points = re.fullmatch(
        rf"(\({frames}, 4, 4\)) (\({frames}, 96, 128\)) bool \((\d+), 3\)\n", python("shown.py", cwd=tmp_path)
    ).groups()
    assert 0 < int(points) < 96 * 128, (cameras, moving)
    assert (tmp_path / "out" / "transforms.json").is_file()


@pytest.mark.slow
def test_quickstart_ends_with_the_verdict_train(quickstart: Path, tmp_path: Path) -> None:
    """What the quickstart makes of the example clip."""
    assert '--data examples/clip/clip.mp4 --output-dir "$output" --weights tiny --overwrite' in (
        EXAMPLES / "quickstart.sh"
    ).read_text(encoding="utf-8")
    scene = read_scene(quickstart / "scene")
    verdict, _ = write_report(scene, tmp_path / "report.html", quickstart)
    assert verdict.level is Level.TRAIN and scene.provenance["warnings"] == []
    frames = json.loads((EXAMPLES / "clip" / "truth.json").read_text(encoding="utf-8"))["frames"]
    truth = np.array([frames[k]["T_world_cam"] for k in scene.indices])[:, :3, 3]
    path = np.linalg.norm(np.diff(truth, axis=0), axis=1).sum()
    assert len(truth) == 24 and align_sim3(scene.T_world_cam[:, :3, 3], truth).rmse < MOST_ERROR * path
    first = int(scene.indices[0])
    up = scene.T_world_cam[0, :3, :3] @ np.array(frames[first]["T_world_cam"])[:3, :3].T @ [0, 0, 1]
    assert scene.provenance["up"]["method"] == "plane"
    assert np.degrees(np.arccos(-up[1])) < 1.5


@pytest.mark.long
def test_clip_to_dataset(tmp_path: Path) -> None:
    said = python(EXAMPLES / "01_clip_to_dataset.py", "--output-dir", "made", "--num-frames", 6, cwd=tmp_path)
    assert "6 of 24 frames" in said and "verdict: " in said
    assert len(list((tmp_path / "made" / "images").iterdir())) == 6


@pytest.mark.slow
def test_masks_only(tmp_path: Path) -> None:
    said = python(EXAMPLES / "02_masks_only.py", "--output-dir", "made", cwd=tmp_path)
    assert "24 masks" in said
    overlaps = []
    for path in sorted((tmp_path / "made" / "masks").iterdir()):
        mask = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        truth = cv2.imread(str(EXAMPLES / "clip" / "masks" / path.name), cv2.IMREAD_UNCHANGED) > 0
        assert mask.shape == truth.shape == (480, 640) and set(np.unique(mask)) <= {0, 255}
        overlaps.append((truth & (mask > 0)).sum() / (truth | (mask > 0)).sum())
    assert len(overlaps) == 24 and np.mean(overlaps) > 0.3, "white is what moves"


@pytest.mark.slow
def test_mesh(quickstart: Path, tmp_path: Path) -> None:
    said = python(EXAMPLES / "03_mesh.py", "--dataset", quickstart, "--output", "made.ply", cwd=tmp_path)
    mesh = open3d.io.read_triangle_mesh(str(tmp_path / "made.ply"))
    assert len(mesh.triangles) > 1000 and f"{len(mesh.triangles)} triangles" in said


@pytest.mark.slow
def test_read_scene(quickstart: Path, tmp_path: Path) -> None:
    said = python(EXAMPLES / "04_read_scene.py", "--dataset", quickstart, "--frame", 3, cwd=tmp_path)
    assert "24 frames of clip.mp4, 128x96 pixels" in said and "motion by scene" in said
    assert 400 < float(re.search(r"fx ([\d.]+)", said)[1]) < 800
    assert "its camera comes from: colmap" in said and "(1 sigma)" in said
    assert int(re.search(r"(\d+) static points", said)[1]) > 1000


@pytest.mark.long
def test_read_scene_with_the_cameras_of_the_network(tmp_path: Path) -> None:
    command = ("-m", "easi3r_ns", "run", "--data", EXAMPLES / "clip" / "clip.mp4", "--output-dir", "made")
    python(*command, "--weights", "tiny", "--refine", "none", "--num-frames-target", 6, "--no-report", cwd=tmp_path)
    said = python(EXAMPLES / "04_read_scene.py", "--dataset", "made", "--frame", 3, cwd=tmp_path)
    assert "6 frames of clip.mp4, 128x96 pixels" in said and "(1 sigma)" in said
    assert "its camera comes from" not in said
