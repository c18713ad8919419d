"""`easi3r evaluate paper` on miniatures: every published number has a cell that says what fills it or is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from easi3r_ns.cli.main import main
from easi3r_ns.core.errors import AlignmentError, CheckpointError, InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.evaluate import paper as paper_module
from easi3r_ns.evaluate.configurations import SETS, Configuration, Wish, configurations
from easi3r_ns.evaluate.datasets import Capture
from easi3r_ns.evaluate.layouts import dycheck
from easi3r_ns.evaluate.paper import evaluate_paper
from easi3r_ns.evaluate.published import KINDS
from easi3r_ns.evaluate.runs import kinds_of_truth, options_text
from easi3r_ns.evaluate.scoring import score_scene
from easi3r_ns.evaluate.tables import Result
from easi3r_ns.pipelines.run import RunConfig
from easi3r_ns.storage.files import write_json
from tests.support.set_layouts import Made, made_clip, text, write_adt, write_davis, write_dycheck

pytest.importorskip("evo", reason="pip install 'easi3r-ns[eval]' to test the scores of cameras")
TAKEN = {"davis-16": range(4), "davis-17": range(4), "davis-all": range(4), "dycheck": range(0, 31, 10),
         "adt": range(0, 21, 5)}  # fmt: skip


CLIP = made_clip(31)


class Fake:
    """Stands for the runs: every sequence becomes its truth with half of what moves, and cameras a tenth away."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.failing: str = ""

    def __call__(self, captures: list[Capture], folder: Path, row: str, config: RunConfig, **_: object) -> list[Result]:
        self.asked.append((folder.name, row, options_text(config)))
        results = []
        for capture in captures:
            result = Result(row, capture.name, kinds_of_truth(capture))
            if capture.name == self.failing:
                results.append(replace(result, error="no cameras were found"))
                continue
            taken = list(TAKEN[folder.name])
            made = CLIP
            moving = made.moving[taken].copy()
            moving[:, 12:] = False
            scene = made.scene(taken, sorted(p.name for p in capture.data.iterdir()), moving=moving)
            results.append(replace(result, scores=score_scene(scene, capture)))
        entry = {"row": row, "options": options_text(config), "version": "0", "code": ["abc"]}
        write_json(folder / f"{row}.json", entry | {"results": [asdict(result) for result in results]})
        return results


def short(made: Made, count: int) -> Made:
    return Made(made.images[:count], made.T_world_cam[:count], made.depth[:count], made.moving[:count])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All sets but TUM-dynamics, each in a folder of its own."""
    folder, made = tmp_path_factory.mktemp("sets"), CLIP
    for name in ("cow", "dog"):
        write_davis(folder / "davis_2017", name, short(made, 4))
    for name, content in (("2016/val", "dog\n"), ("2017/val", "dog\ncow\n"), ("2017/train", "cow\n")):
        text(folder / "davis_2017" / "ImageSets" / f"{name}.txt", content)
    for name in dycheck.NAMES:
        write_dycheck(folder / "iphone", name, made)
    for name in ("Apartment_a", "Apartment_b"):
        write_adt(folder / "adt", name, short(made, 21))
    return folder


@pytest.fixture(scope="module")
def no_dust3r() -> Iterator[None]:
    """monst3r and sam2 are there, dust3r is not."""

    def resolve(name: str, **_: object) -> None:
        if name == "dust3r":
            raise CheckpointError("--weights dust3r: it is not on this machine")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper_module, "resolve", resolve)
        patch.setattr(paper_module, "check_tracker", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def whole(root: Path, no_dust3r: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fake]:
    """The folder of a command with all defaults, in which the sequence `cow` fails."""
    out, fake = tmp_path_factory.mktemp("out"), Fake()
    fake.failing = "cow"
    run(root, out, fake)
    return out, fake


def run(root: Path, out: Path, fake: Callable[..., list[Result]], wish: Wish = Wish(), **options: bool) -> list[dict]:
    evaluate_paper(root, out, wish, RunConfig(), log=RunLog(), reconstruct=fake, **options)
    return json.loads((out / "paper.json").read_text())["cells"]


def cell(cells: list[dict], *wanted: str) -> list[dict]:
    keys = ("set", "method", "measure", "configuration")[: len(wanted)]
    return [found for found in cells if tuple(found[key] for key in keys) == wanted]


def test_every_published_number_has_a_cell_that_says_what_fills_it(whole: tuple[Path, Fake]) -> None:
    cells = json.loads((whole[0] / "paper.json").read_text())["cells"]
    for kind in KINDS:
        for name, methods in kind.numbers.items():
            for method, numbers in methods.items():
                for measure, number in zip(kind.measures, numbers, strict=True):
                    found = cell(cells, name, method, measure)
                    assert found and all(c["published"] == number and c["state"] for c in found)
    (ours,) = cell(cells, "davis-16", "Easi3R on MonST3R", "JM %", "monst3r-attention")
    assert ours["ours"] == pytest.approx(50) and ours["difference"] == pytest.approx(50 - 57.7)
    (ours,) = cell(cells, "davis-17", "Easi3R on MonST3R", "JM with SAM2 %", "monst3r-auto+sam2")
    assert ours["published"] == 67.9 and ours["ours"] == pytest.approx(50) and ours["state"] == "1 scored, 1 failed"
    (ours,) = cell(cells, "dycheck", "MonST3R (flow)", "ATE")
    assert ours["configuration"] == "monst3r-plain" and ours["ours"] == pytest.approx(0, abs=1e-6)
    states = {(c["set"], c["method"], c["state"]) for c in cells}
    assert ("adt", "Easi3R on DUSt3R", "not run (weights)") in states
    assert ("tum-dynamics", "Easi3R on MonST3R", "not run (data)") in states
    assert ("davis-16", "DAS3R", "not run (another method)") in states
    assert ("davis-16", "MonST3R (flow)", "not run (another method)") in states
    assert ("dycheck", "Easi3R (flow)", "not run (weights)") in states


def test_the_page_tells_protocols_options_and_what_is_missing(whole: tuple[Path, Fake]) -> None:
    out = whole[0]
    page = (out / "paper.md").read_text()
    assert "| Easi3R on MonST3R | JM % | 56.5 | 50.0 | -6.5 | monst3r-attention | 1 scored, 1 failed |" in page
    assert "not the 50 of a run's default" in page and "* `dycheck`: DyCheck: every 10th frame of the split" in page
    assert "apple, backpack" in page and "the cameras are those of the phone" in page
    assert "* `davis-16`, `monst3r-auto`: `" in page and "code abc" in page
    assert "* `tum-dynamics`: " in page and "dust3r: it is not on this machine" in page
    assert "JM with SAM2 \\%" in (out / "paper.tex").read_text()
    assert "davis-16: Motion masks,Easi3R on MonST3R,JM %,57.7,50.0" in (out / "paper.csv").read_text()


def test_every_run_has_all_frames_and_the_options_of_its_row(whole: tuple[Path, Fake]) -> None:
    asked = {(name, row): options for name, row, options in whole[1].asked}
    assert all("--num-frames-target 0" in options and "--refine none" in options for options in asked.values())
    rows = {name: [row for of, row in asked if of == name] for name, _ in asked}
    assert rows["davis-16"] == ["monst3r-attention", "monst3r-attention+sam2", "monst3r-auto", "monst3r-auto+sam2"]
    assert rows["adt"] == ["monst3r-plain", "monst3r-attention", "monst3r-auto"]
    assert "--no-adapt" in asked["adt", "monst3r-plain"] and "--motion" in asked["adt", "monst3r-attention"]
    assert "--refine-masks sam2" in asked["davis-all", "monst3r-auto+sam2"]


def test_what_an_interrupted_command_did_is_on_the_page(root: Path, tmp_path: Path, no_dust3r: None) -> None:
    class Stops(Fake):
        def __call__(self, *arguments: object, **options: object) -> list[Result]:
            if len(self.asked) == 2:
                raise KeyboardInterrupt
            return super().__call__(*arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path, Stops(), Wish(weights=("monst3r",), refine_masks=("none",), sets=("davis-16", "adt")))
    cells = json.loads((tmp_path / "paper.json").read_text())["cells"]
    (done,) = cell(cells, "davis-16", "Easi3R on MonST3R", "JM %", "monst3r-attention")
    assert done["ours"] == pytest.approx(50)
    assert {c["state"] for c in cell(cells, "adt", "Easi3R on MonST3R")} == {"not run (yet)"}
    assert {c["state"] for c in cell(cells, "davis-17")} == {"not asked for (--sets)"}
    (without,) = cell(cells, "davis-16", "Easi3R on MonST3R", "JM with SAM2 %")
    assert without["state"] == "not asked for (--refine-masks)"


def test_a_row_that_cannot_begin_costs_its_cells_only(root: Path, tmp_path: Path, no_dust3r: None) -> None:
    class Refuses(Fake):
        def __call__(self, captures: list[Capture], folder: Path, row: str, *rest: object, **options: object) -> list:
            if row == "monst3r-auto":
                raise AlignmentError("the weights are\ndamaged")
            return super().__call__(captures, folder, row, *rest, **options)

    cells = run(root, tmp_path, Refuses(), Wish(weights=("monst3r",), refine_masks=("none",), sets=("davis-16",)))
    states = {c["configuration"]: c["state"] for c in cell(cells, "davis-16", "Easi3R on MonST3R", "JM %")}
    assert states == {"monst3r-attention": "1 scored, 0 failed", "monst3r-auto": "not run (weights)"}
    assert "the weights are" in (tmp_path / "paper.md").read_text()


def test_few_sequences_are_compared_with_nothing(root: Path, tmp_path: Path, no_dust3r: None) -> None:
    cells = run(root, tmp_path, Fake(), Wish(weights=("monst3r",), sets=("dycheck",)), smoke=True)
    found = cell(cells, "dycheck", "Easi3R on MonST3R", "ATE", "monst3r-attention")[0]
    assert found["ours"] is not None and found["difference"] is None and "3 scored" in found["state"]
    assert "Nothing here can be compared" in (tmp_path / "paper.md").read_text()


def test_other_weights_have_lines_without_published_numbers(root: Path, tmp_path: Path, no_dust3r: None) -> None:
    cells = run(root, tmp_path, Fake(), Wish(weights=("tiny", "none"), motion=("auto",), sets=("davis-16", "adt")))
    (found,) = cell(cells, "adt", "Easi3R on tiny", "ATE")
    assert found["published"] is None and found["ours"] == pytest.approx(0, abs=1e-6)
    assert [c["configuration"] for c in cell(cells, "adt", "tiny (flow)", "ATE")] == ["tiny-plain"]
    assert cell(cells, "davis-16", "Easi3R on none", "JM %")[0]["ours"] == pytest.approx(50)


def test_names_of_rows_are_one_for_each_configuration() -> None:
    rows = [(name, c.row) for name in SETS for c in configurations(Wish(weights=("dust3r", "none", "a/b.pth")), name)]
    assert len(set(rows)) == len(rows) and all("/" not in row for _, row in rows)
    assert Configuration("monst3r", "auto", "sam2").row == "monst3r-auto+sam2"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sets", "davis-18"], "--sets davis-18: there are davis-16, "),
        (["--motion", "flow"], "--motion flow: there are auto, attention"),
        (["--weights", ""], "--weights is empty"),
        (["--root", "gone"], "--root gone is no folder"),
    ],
)
def test_wrong_lists_are_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(["evaluate", "paper", "--root", ".", *arguments])
    assert end.value.code == 2 and said in capsys.readouterr().err
    with pytest.raises(InputError):
        Wish(sets=("x",))


@pytest.mark.slow
def test_real_runs_are_kept_and_their_origin_with_them(tmp_path: Path) -> None:
    """One sequence through the small network; a second command runs nothing anew."""
    made = made_clip(4)
    write_davis(tmp_path / "set", "dog", made)
    text(tmp_path / "set" / "ImageSets" / "2016" / "val.txt", "dog\n")
    out = tmp_path / "out"
    command = ["evaluate", "paper", "--root", str(tmp_path / "set"), "--output-dir", str(out), "--weights", "tiny"]
    command += ["--motion", "attention", "--refine-masks", "none", "--sets", "davis-16,adt", "--device", "cpu"]
    main(command)
    content = json.loads((out / "paper.json").read_text())
    (found,) = cell(content["cells"], "davis-16", "Easi3R on tiny", "JM %")
    assert 0 <= found["ours"] <= 100 and found["state"] == "1 scored, 0 failed"
    assert {c["state"] for c in cell(content["cells"], "adt", "Easi3R on tiny")} == {"not run (data)"}
    (row,) = content["rows"]["davis-16"]
    assert row["code"] == [content["code"]] and len(row["weights"]["sha256"]) == 64
    folder = out / "davis-16" / "tiny-attention" / "dog"
    state = json.loads((folder / "run.json").read_text())
    assert state["code"] == content["code"] and state["cpu_seconds"] > 0 and (folder / "log.txt").is_file()
    stamp = (folder / "transforms.json").stat().st_mtime_ns
    main(command)
    assert (folder / "transforms.json").stat().st_mtime_ns == stamp
    assert np.isfinite(found["ours"])
