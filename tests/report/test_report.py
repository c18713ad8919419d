"""The report card: valid, self-contained, complete, safe against what users type, and readable in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, FrameConfig, RefineConfig
from easi3r_ns.core.rig import ViewRig
from easi3r_ns.core.scene import ASSUMED, CameraUncertainty, Scene, SparsePoints
from easi3r_ns.core.surface import world_points
from easi3r_ns.core.types import DynamicMasks, PixelMap
from easi3r_ns.pipelines.run import RunConfig
from easi3r_ns.report import page as page_module
from easi3r_ns.report.command import command_text
from easi3r_ns.report.figures import Axes, Bar, Line, bar_chart, line_chart, ticks
from easi3r_ns.report.measures import measure
from easi3r_ns.report.page import split_options, write_report
from easi3r_ns.report.pictures import outlined
from easi3r_ns.report.rules import RULES
from easi3r_ns.report.sections.depth import depth_section
from easi3r_ns.report.sections.evidence import MAP_LABELS, evidence_section
from easi3r_ns.report.sections.motion import motion_section
from easi3r_ns.report.sections.selection import selection_section
from easi3r_ns.report.words import plain, unit_of_time, when_of
from tests.support.dataset_scene import make_scene

SECTIONS = ("verdict", "motion", "path", "depth", "agreement", "lens", "attention", "run")
VOID = {"meta", "link", "img", "br"}
MAX_BYTES = 6_000_000


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A scene as a run leaves it: attention maps, provenance, source images."""
    scene = make_scene(tmp_path_factory.mktemp("room"), (160, 120), 12)[0]
    rng = np.random.default_rng(0)
    maps = {name: rng.random((12, 12, 16), dtype=np.float32) for name in ("mean_src", "std_src", "mean_ref", "std_ref")}
    dynamic = replace(scene.dynamic, maps=maps, score=rng.random((12, 12, 16), dtype=np.float32))
    stages = [
        {"name": "encode <b>", "seconds": 1.25, "cpu_seconds": 2.5, "peak_memory_bytes": 3 * 2**30},
        {"name": "align", "seconds": 10.0, "cpu_seconds": 11.0, "peak_memory_bytes": 2**30},
    ]
    provenance = {
        "version": "1.2.3",
        "source": "my clip.mp4",
        "weights": {
            "name": "big", "licence": "CC BY-NC-SA 4.0", "non_commercial": True, "sha256": "ab" * 32,
            "num_parameters": 1234567, "dynamic_score": {"mean_src": -1, "std_src": 1, "mean_ref": 1, "std_ref": -1},
        },
        "config": asdict(RunConfig(FrameConfig(num_frames_target=12), Easi3RConfig(weights="big"))),
        "stages": stages,
        "warnings": ["look & see <here>"],
        "alignment": {"focal_estimates": [100.0 + k for k in range(12)]},
    }  # fmt: skip
    return replace(scene, dynamic=dynamic, provenance=provenance)


class Page(HTMLParser):
    """A strict reader: every element closed in order, no id twice; collects ids, addresses and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"
        assert len(set(self.ids)) == len(self.ids), "an id appears twice"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> outside SVG"
        self._note(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        assert len(values) == len(attrs), f"an attribute of <{tag}> appears twice"
        if tag == "img":
            assert "alt" in values
        if values.get("id"):
            self.ids.append(values["id"])
        self.addresses += [values[name] or "" for name in ("src", "href", "xlink:href", "action") if name in values]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(scene: Scene, path: Path) -> tuple[str, Page]:
    write_report(scene, path, Path("a <b>"))
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


@pytest.fixture(scope="module")
def report(room: Scene, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return read(room, tmp_path_factory.mktemp("report") / "report.html")


def test_nothing_comes_from_elsewhere(report: tuple[str, Page]) -> None:
    text, page = report
    assert page.addresses and all(address.startswith("data:") for address in page.addresses if address != "preview.mp4")
    assert not re.findall(r"(?:https?:)?//[a-z]", re.sub(r"data:[^\"]+", "", text))
    assert "url(" not in text and "@import" not in text and "script" not in page.tags
    assert "default-src 'none'" in text


def test_every_section_is_there_and_verdict_first(report: tuple[str, Page]) -> None:
    text, page = report
    assert tuple(page.ids) == SECTIONS
    assert len(text) < MAX_BYTES
    for words in (
        "my clip.mp4", "Train", "Nothing that can be checked", "Parallax: ",
        "(fine: at least 3 degrees; below 1 degree: stop)", f"All {len(RULES)} checks", "not measured",
        "Masked part of the picture", "Flicker", "From above", "Position", "Speed", "Rotation speed", "Parallax",
        "depth", "confidence", "Depth disagreement", "if the camera had stood still", "spread between frames",
        "A: mean, as second", "D: spread, as first", "score", "Score = (1 - A) x B x C x (1 - D)",
        "look & see <here>", "encode <b>", "CC BY-NC-SA 4.0", "non-commercial", "1,234,567",
        "What to do next", "ns-train splatfacto-easi3r --data 'a <b>'",
        "ns-process-data easi3r --data 'my clip.mp4' --output-dir OUT --num-frames-target 12 --weights big",
        "easi3r-ns 1.2.3",
    ):  # fmt: skip
        assert words in page.text, words
    assert "<here>" not in text and "<b>" not in text
    assert re.search(r"in all 11\.2 13\.5 3\.00", page.text)


def test_text_of_users_stays_text(room: Scene, tmp_path: Path) -> None:
    """Whatever a clip, a frame, a warning or the weights are called: it is shown, and makes no element."""
    evil = "<img src=x onerror=alert(1)>\"'&"
    names = tuple(f"{evil} {k}" for k in range(len(room)))
    provenance = room.provenance | {
        "source": evil, "version": evil, "warnings": [evil], "config": {"a": evil},
        "weights": {"name": evil, "licence": evil}, "stages": [room.provenance["stages"][0] | {"name": evil}],
    }  # fmt: skip
    folder = {"times": np.arange(12.0), "indices": np.arange(12), "names": names}
    text, page = read(replace(room, provenance=provenance, **folder), tmp_path / "report.html")
    assert "<img src=x" not in text and page.text.count(evil) >= 7
    assert f"{evil} 11, " in page.text, "the caption of a frame"


def test_template_escapes_everything_but_the_drawings() -> None:
    folder = Path(page_module.__file__).parent
    templates = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")}
    pages = {"template.html.jinja", "unposed.html.jinja", "comparison.html.jinja"}
    assert set(templates) == {*pages, "macros.html.jinja"}
    everything = "".join(templates.values())
    assert re.findall(r"\S+ \| safe", everything) == ["chart.drawing | safe"]
    assert "autoescape" not in re.sub(r"\{#.*?#\}", "", everything, flags=re.DOTALL)


def test_options_in_sentences() -> None:
    pieces = split_options("Lower --min-confidence, or --refine colmap; see --align.smooth-weight.")
    assert [text for text, is_option in pieces if is_option] == [
        "--min-confidence", "--refine colmap", "--align.smooth-weight",
    ]  # fmt: skip
    assert "".join(text for text, _ in pieces).startswith("Lower --min-confidence, or")
    assert split_options("plain -- text") == [("plain -- text", False)]


def test_flow_in_the_score_has_its_map_and_its_letter(room: Scene) -> None:
    weights = room.provenance["weights"] | {"dynamic_score": dict.fromkeys(MAP_LABELS, 0) | {"std_src": 1}}
    weights["dynamic_score"]["flow_residual"] = 1
    maps = room.dynamic.maps | {"flow_residual": room.dynamic.maps["std_src"]}
    scene = replace(room, dynamic=replace(room.dynamic, maps=maps), provenance={"weights": weights})
    section = evidence_section(scene)
    assert "Score = B x E, averaged" in section.lead
    assert all("E: flow residual" in [shown.caption for shown in row] for row in section.rows)
    assert "E: distance between the optical flow" in section.lead and "E: " not in evidence_section(room).lead
    assert "no attention in it" not in section.lead
    alone = weights | {"dynamic_score": weights["dynamic_score"] | {"std_src": 0}}
    lead = evidence_section(replace(scene, provenance={"weights": alone})).lead
    assert "no attention in it, only optical flow (E). Score = E, averaged" in lead


def test_an_assumed_depth_is_said_and_not_drawn(room: Scene) -> None:
    still = ~room.dynamic.masks
    bare = replace(room, depth=room.depth * still, confidence=room.confidence * still)
    assumed = replace(bare, assumed_depth=np.where(still, 0, np.float32(2)))
    without, section = (depth_section(scene, measure(scene)) for scene in (bare, assumed))
    assert f"stands still. {ASSUMED} It is in no picture here." in section.lead and ASSUMED not in without.lead
    assert section.rows == without.rows


def test_drawings_are_well_formed_and_described(report: tuple[str, Page]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", report[0], flags=re.S)
    assert len(drawings) >= 8
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("aria-label") and root.get("viewBox")
        assert "nan" not in drawing and "inf" not in drawing


def test_twice_gives_identical_bytes(room: Scene, tmp_path: Path) -> None:
    write_report(room, tmp_path / "a.html", tmp_path)
    write_report(room, tmp_path / "b.html", tmp_path)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_names_of_users_are_shown_as_they_are(room: Scene, tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script>\"'&.mp4"
    named = replace(room, provenance=room.provenance | {"source": nasty}, names=(nasty,) * 12)
    text, page = read(named, tmp_path / "report.html")
    assert "script" not in page.tags and nasty in page.text and "<script" not in text


def bare(scene: Scene) -> Scene:
    """No depth, triangulated points."""
    points = world_points(scene, 0).reshape(-1, 3)[::30].astype(float)
    count = len(points)
    sparse = SparsePoints(
        points, np.full((count, 3), 90, np.uint8), np.linspace(0.1, 2, count), np.repeat(np.arange(count), 12),
        np.tile(np.arange(12), count), np.zeros((12 * count, 2)),
    )  # fmt: skip
    nothing = np.zeros_like(scene.depth)
    maps = {"mean": scene.dynamic.score, "deviation": scene.dynamic.score}
    dynamic = replace(scene.dynamic, source="geometry", maps=maps)
    return replace(scene, depth=nothing, confidence=nothing, sparse=sparse, dynamic=dynamic)


def one_frame(scene: Scene) -> Scene:
    names = ("images", "T_world_cam", "focals", "depth", "confidence", "times", "indices", "names", "source_paths")
    parts = {name: getattr(scene, name)[:1] for name in names}
    return replace(scene, **parts, dynamic=DynamicMasks(scene.dynamic.masks[:1], scene.dynamic.score[:1], 0.5))


def masked_by(scene: Scene, source: str) -> Scene:
    score = np.zeros((12, 1, 1), np.float32)
    masks = scene.dynamic.masks if source == "user" else np.zeros_like(scene.dynamic.masks)
    return replace(scene, dynamic=DynamicMasks(masks, score, float("nan"), source=source))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            bare,
            [
                "training starts from 410 triangulated points",
                "optical flow",
                "flow residual",
                "its spread",
                "Reprojection error",
                "per 1000 px of the picture",
            ],
        ),
        (one_frame, ["only 1 frames", "One frame has no path"]),
        (
            lambda s: replace(s, provenance={}),
            ["--data CLIP", "Not recorded", "No network made this scene", "was not estimated"],
        ),
        (lambda s: replace(s, dynamic=replace(s.dynamic, maps=None)), ["kept the score only"]),
        (lambda s: masked_by(s, "user"), ["your masks", "The masks are yours"]),
        (lambda s: masked_by(s, "none"), ["Nothing was masked", "The run did not look for motion"]),
        (lambda s: replace(s, confidence=np.zeros_like(s.confidence)), ["Do not train", "too little static, trusted"]),
        (lambda s: replace(s, source_paths=(Path("gone.png"),) * 12), ["Train"]),
        (lambda s: replace(s, times=np.tile(np.arange(6) / 10, 2)), ["6 more frames are held out"]),
        (lambda s: replace(s, distortion=(0.01, 0, 0, 0)), ["distortion k1, k2, p1, p2", "0.01, 0, 0, 0"]),
        (
            lambda s: replace(s, uncertainty=CameraUncertainty(*np.full((4, 12), 0.01))),
            ["Uncertainty of the position", "Uncertainty of the rotation", "uncertainty, 1 sigma"],
        ),
        (
            lambda s: replace(s, uncertainty=CameraUncertainty(*np.append(np.full((4, 11), 0.01), [[np.inf]] * 4, 1))),
            ["Left out: 1 of 12 cameras, which no pair of frames constrains", "these cameras are interpolated"],
        ),
        (
            lambda s: replace(s, pose_sources=("colmap",) * 10 + ("aligned",) * 2),
            ["10 refined by COLMAP, 2 not registered by COLMAP and moved", "could not register 17 %"],
        ),
        (
            lambda s: replace(s, provenance={"mapping": {"kept": "mapping without masks", "why": "60 frames hold"}}),
            ["They come from mapping without masks: 60 frames hold."],
        ),
        (
            lambda s: replace(s, provenance=s.provenance | {"refine": {"kept": "network", "why": "too few tracks"}}),
            ["Bundle adjustment changes nothing: too few tracks."],
        ),
        (
            lambda s: replace(
                s, provenance=s.provenance | {"weights_choice": {"line": "auto takes none; say --weights dust3r"}}
            ),
            ["auto takes none; say --weights dust3r"],
        ),
        (
            lambda s: replace(
                s, times=np.arange(12.0), indices=np.arange(12), names=tuple(f"{k}.jpg" for k in range(12))
            ),
            ["image of the folder", "11.jpg", "per image"],
        ),
    ],
)
def test_other_kinds_of_scenes(room: Scene, tmp_path: Path, change, expected: list[str]) -> None:
    text, page = read(change(room), tmp_path / "report.html")
    assert tuple(page.ids) == SECTIONS
    for words in expected:
        assert words in page.text, words
    assert not re.search(r"\bnan\b|\bNone\b(?!\.)", page.text)


@pytest.mark.slow
def test_report_of_a_long_clip_stays_small(room: Scene, tmp_path: Path) -> None:
    """450 frames at the size of the large networks, with noise that hardly compresses."""
    count, height, width = 450, 144, 256
    rng = np.random.default_rng(0)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 3] = np.arange(count) * 0.01
    scene = Scene(
        images=rng.integers(0, 255, (count, height, width, 3), dtype=np.uint8), T_world_cam=T,
        focals=np.full(count, 200.0), principal_point=np.array([127.5, 71.5]),
        depth=np.full((count, height, width), 2.0, np.float32),
        confidence=np.full((count, height, width), 2.0, np.float32),
        dynamic=DynamicMasks(np.zeros((count, height, width), bool), np.zeros((count, 9, 16), np.float32), 0.5),
        pixel_map=PixelMap((width, height), (width, height), (0, 0, width, height)), times=np.arange(count) / 30,
        indices=np.arange(count), names=("a.mp4",) * count, source_paths=(Path("gone"),) * count,
    )  # fmt: skip
    write_report(scene, tmp_path / "report.html", tmp_path)
    assert (tmp_path / "report.html").stat().st_size < MAX_BYTES


def test_command_names_what_is_not_default() -> None:
    config = RunConfig(
        FrameConfig(fps=2.5, start=1.0),
        Easi3RConfig(weights="my weights.pth", no_adapt=True),
        AlignConfig(shared_focal=False, flow_weight=0.0),
        DatasetConfig(depths=False),
        refine=RefineConfig(refine="colmap"),
        eval_data=Path("second.mp4"),
    )
    assert command_text({"source": "a b.mp4", "config": asdict(config)}) == (
        "ns-process-data easi3r --data 'a b.mp4' --output-dir OUT --eval-data second.mp4 --fps 2.5 --start 1 "
        "--weights 'my weights.pth' --no-adapt --no-depths --refine colmap --align.no-shared-focal "
        "--align.flow-weight 0"
    )
    assert command_text({"source": "a.mp4", "config": asdict(RunConfig())}) == (
        "ns-process-data easi3r --data a.mp4 --output-dir OUT"
    )


def test_command_keeps_the_path_of_the_clip() -> None:
    known = {"source": "a.mp4", "source_path": "my films/a.mp4", "config": asdict(RunConfig())}
    assert command_text(known, "out") == "ns-process-data easi3r --data 'my films/a.mp4' --output-dir out"
    several = known | {"source_path": ["a b.mp4", "c.mp4"]}
    changed = command_text(several, "out", {"frames": {"num_frames_target": 9}, "align": {"flow_weight": 0.5}})
    assert changed == (
        "ns-process-data easi3r --data 'a b.mp4' c.mp4 --output-dir out --num-frames-target 9 --align.flow-weight 0.5 "
        "--overwrite"
    )


def test_chart_shows_its_values() -> None:
    axes = Axes("seconds", lambda v: f"{v:g} m", "A <chart>", limit=3.0)
    values = np.array([0.0, 2.0, np.nan, 4.0, 1.0])
    drawing = line_chart(np.arange(5.0), [Line("far", values)], axes, values > 3)
    root = ElementTree.fromstring(drawing)
    assert root.get("aria-label") == "A <chart>"
    lines = [e.get("points").split() for e in root.iter("polyline")]
    assert [len(points) for points in lines] == [2, 2], "an unknown value interrupts the line"
    x, y = (np.array([float(p.split(",")[axis]) for points in lines for p in points]) for axis in (0, 1))
    assert (np.diff(x) > 0).all()
    assert np.polyfit(values[[0, 1, 3, 4]], y, 1, full=True)[1] < 0.05 and y[0] > y[1], "up is more"
    titles = [e.text for e in root.iter("title")]
    assert titles[3] == "frame 4 (3 seconds): far 4 m" and "nothing to compare" in titles[2]
    assert [e.get("class") for e in root.iter("circle")] == ["mark"]
    assert sum(e.get("class") == "limit" for e in root.iter("line")) == 1


@pytest.mark.parametrize("values", [[0.0, 0.0], [np.nan, np.nan], [5.0, 5.0], [-1e-12, 1e9]])
def test_chart_of_odd_values(values: list[float]) -> None:
    for low in (0.0, None):
        drawing = line_chart(np.arange(2.0), [Line("", np.array(values))], Axes("s", str, "odd", low=low))
        ElementTree.fromstring(drawing)
        assert "nan" not in drawing.replace("nothing to compare", "")


@pytest.mark.parametrize("values", [[4800.0, 5250.0, 5500.0], [0.00001, 0.00002, 0.00003], [12000.0, 2e6, 3e6]])
def test_numbers_beside_an_axis_are_whole_words_inside_the_drawing(values: list[float]) -> None:
    drawing = line_chart(np.arange(3.0), [Line("", np.array(values))], Axes("s", plain, "large", low=None))
    labels = [e for e in ElementTree.fromstring(drawing).iter("text") if e.get("text-anchor") == "end"][:-1]
    assert len({e.text for e in labels}) == len(labels) > 2, "every tick has a number of its own"
    assert "e+" not in drawing
    for label in labels:
        assert float(label.get("x")) - 6 * len(label.text) > 0, label.text


def test_bars_are_as_long_as_their_values() -> None:
    drawing = bar_chart([Bar("with <b>", 5.0), Bar("without", 20.0)], lambda value: f"{value:g} px", "Two bars")
    root = ElementTree.fromstring(drawing)
    widths = [float(e.get("width")) for e in root.iter("rect")]
    assert widths[0] == pytest.approx(widths[1] / 4, abs=0.1) and widths[1] > 250
    assert [e.text for e in root.iter("text")] == ["with <b>", "5 px", "without", "20 px"]
    ElementTree.fromstring(bar_chart([Bar("nothing", 0.0)], str, "no bar"))


def test_ticks_are_round_and_cover_the_range() -> None:
    assert ticks(0, 10, 4)[0] <= 0 and ticks(0, 10, 4)[-1] >= 10
    assert ticks(0.0, 0.37, 4) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_browser_shows_it_without_complaints(room: Scene, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium: apt-get install chromium")
    write_report(room, tmp_path / "report.html", tmp_path)
    shot = tmp_path / "shot.png"
    result = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
         f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2400", f"--screenshot={shot}",
         (tmp_path / "report.html").as_uri()],
        capture_output=True, text=True, timeout=180, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in result.stderr, "the page complains"
    import cv2

    image = cv2.imread(str(shot))
    assert image.shape[1] == width
    # Nothing sticks out to the right: the page's margin there is one colour, from top to bottom.
    assert np.ptp(image[:, -4:].reshape(-1, 3).astype(int), axis=0).max() <= 2
    assert image.std() > 20, "the page is not blank"


def test_the_sharpness_of_the_frames_is_shown_with_those_in_use(room: Scene, tmp_path: Path) -> None:
    times = np.linspace(float(room.times[0]), float(room.times[-1]), 23)
    values = np.where(np.arange(23) % 2, 0.5, 1.0)
    shown = replace(room, provenance=room.provenance | {"sharpness": {"times": times.tolist(), "values": list(values)}})
    section = selection_section(replace(shown, times=times[::2]))
    assert section is not None and "blurred" not in section.lead
    assert section.charts[0].drawing.count('class="mark"') == 12
    section = selection_section(replace(shown, times=np.concatenate([times[:1], times[1::2]])))
    assert section is not None and "11 of 12 are blurred" in section.lead
    text, page = read(shown, tmp_path / "report.html")
    assert "selection" in page.ids and "Sharpness" in page.text
    assert selection_section(room) is None


def test_views_of_a_folder_of_spheres_are_images_and_those_of_a_clip_have_seconds(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, (160, 120), 6)[0]
    rig = ViewRig(np.tile(np.eye(4), (2, 1, 1)), 100.0, np.repeat([0, 1], 3), np.tile(np.arange(3), 2))
    photos = replace(scene, rig=rig, indices=np.tile(np.arange(3), 2), times=np.tile(np.arange(3.0), 2))
    photos = replace(photos, names=("a.jpg", "b.jpg", "c.jpg") * 2)
    assert unit_of_time(photos) == "image" and when_of(photos, 4) == "b.jpg"
    assert unit_of_time(replace(photos, names=("round.mp4",) * 6)) == "second"


def test_several_objects_are_named_with_their_colours(tmp_path: Path) -> None:
    scene = make_scene(tmp_path, (160, 120), 4)[0]
    ids = scene.dynamic.masks.astype(np.uint16)
    one = replace(scene, dynamic=replace(scene.dynamic, objects=ids.copy()))
    ids[2:] *= 2
    two = replace(scene, dynamic=replace(scene.dynamic, objects=ids))
    assert motion_section(one, measure(one)).lead == motion_section(scene, measure(scene)).lead
    section = motion_section(two, measure(two))
    assert "Each of 2 objects" in section.lead and "2 (blue; frames 3 to 4" in section.lead
    assert "red" not in section.lead
    image = np.full((60, 80, 3), 128, np.uint8)
    plain_red, told = outlined(image, ids[3] > 0), outlined(image, ids[3] > 0, ids[3])
    changed = np.abs(plain_red.astype(int) - told).sum(axis=2) > 0
    assert changed.any() and told[..., 2][changed].mean() > plain_red[..., 2][changed].mean()
