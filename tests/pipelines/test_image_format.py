"""JPEG in place of PNG: from the frames of a clip to the dataset, its exports, its check and back."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from easi3r_ns.check.examine import check_folder
from easi3r_ns.cli import main as cli
from easi3r_ns.core.config import DatasetConfig, FrameConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.dataset.nerfstudio import check_loads, dataset_files, write_dataset
from easi3r_ns.dataset.scene_folder import find_scene
from easi3r_ns.frames import ImageGeometry, Kept, load_frames
from easi3r_ns.storage.files import encode_jpeg, read_png
from tests.support.dataset_scene import make_scene

JPEG = DatasetConfig(num_downscales=1, max_init_points=2000, image_format="jpeg", report=False)
CLIP = Path(__file__).parents[2] / "examples" / "clip" / "clip.mp4"


def kind(path: Path) -> str:
    """What the content of a file is, whatever its name says."""
    with Image.open(path) as image:
        return str(image.format)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same in both formats, of a scene whose frames are PNG files (as those of an import are)."""
    folder = tmp_path_factory.mktemp("formats")
    scene, _ = make_scene(folder / "store", (320, 213), 4)
    for name in ("jpeg", "png"):
        config, out = replace(JPEG, image_format=name), folder / name
        write_dataset(scene, out, config, RunLog(), verify=lambda file: check_loads(file, RunLog()))
    return {name: folder / name for name in ("jpeg", "png")}


@pytest.fixture
def dataset(datasets: dict[str, Path]) -> Path:
    return datasets["jpeg"]


def states(folder: Path) -> list[tuple[str, list[str]]]:
    """What the programs that are meant for a folder make of it."""
    return [(verdict.name, [finding.state for finding in verdict.findings]) for verdict in check_folder(folder)]


def test_frames_are_written_once_and_read_alike(tmp_path: Path) -> None:
    """The network sees what is in the files: a run that goes on with them computes the same."""
    select, geometry = FrameConfig(num_frames_target=4), ImageGeometry(128, 8)
    options = {"select": select, "geometry": geometry, "log": RunLog(), "kept": Kept(".jpg")}
    first, again = (load_frames(CLIP, tmp_path / "store", **options) for _ in range(2))
    np.testing.assert_array_equal(first.images, again.images)
    assert {path.suffix for path in first.source_paths} == {".jpg"}
    assert {kind(path) for path in first.source_paths} == {"JPEG"}
    lossless = load_frames(CLIP, tmp_path / "other", select=select, geometry=geometry, log=RunLog())
    for path, reference in zip(first.source_paths, lossless.source_paths, strict=True):
        assert cv2.PSNR(read_png(path), read_png(reference)) > 38
    assert {path.name for path in first.near.paths} == {path.name for path in lossless.near.paths}
    store = load_frames(CLIP, tmp_path / "store", select=select, geometry=geometry, log=RunLog())
    assert {kind(path) for path in store.source_paths} == {"PNG"}, "files of the other format do not serve"


def test_images_are_jpeg_and_the_rest_is_lossless(dataset: Path) -> None:
    for folder, wanted in (("images", "JPEG"), ("images_2", "JPEG"), ("masks", "PNG"), ("depths_2", "PNG")):
        assert {kind(path) for path in (dataset / folder).iterdir()} == {wanted}, folder
    written = {path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file()}
    named = dataset_files(4, (320, 213), JPEG)
    assert {file for file in written if file.startswith(("images", "masks", "depths"))} <= named
    scene = find_scene(dataset)
    assert all(path.is_file() and path.suffix == ".jpg" for path in scene.source_paths)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", ["none", "static"])
def test_every_format_and_program_takes_it(datasets: dict[str, Path], tmp_path: Path, alpha: str) -> None:
    formats = ["colmap", "splat", "ngp", "dnerf", "megasam", "vipe"]
    for name, dataset in datasets.items():
        out = str(tmp_path / name)
        cli.main(["export", str(dataset), "--output-dir", out, "--format", *formats, "--alpha", alpha])
    assert states(datasets["jpeg"]) == states(datasets["png"])
    for name in ("colmap", "splat", "ngp", "dnerf"):
        assert states(tmp_path / "jpeg" / name) == states(tmp_path / "png" / name)
    exports = tmp_path / "jpeg"
    for path in exports.rglob("*"):
        if path.suffix in (".png", ".jpg"):
            assert kind(path) == {".png": "PNG", ".jpg": "JPEG"}[path.suffix], path
    suffixes = {path.suffix for path in (exports / "splat" / "images").iterdir()}
    assert suffixes == {".jpg" if alpha == "none" else ".png"}
    assert (exports / "colmap" / "masks" / "colmap_00001.jpg.png").is_file()
    source = (datasets["jpeg"] / "images" / "frame_00001.jpg").read_bytes()
    assert (exports / "colmap" / "images" / "colmap_00001.jpg").read_bytes() == source, "not coded twice"


def test_it_is_imported_again(dataset: Path, tmp_path: Path) -> None:
    out, theirs = tmp_path / "again", tmp_path / "theirs"
    shutil.copytree(dataset, theirs)
    meta = json.loads((theirs / "transforms.json").read_text())
    (theirs / "transforms.json").write_text(json.dumps({key: meta[key] for key in meta if key != "easi3r"}))
    cli.main(["import", str(theirs), "--output-dir", str(out), "--no-report", "--image-format", "jpeg"])
    scene = find_scene(out)
    assert {kind(path) for path in (out / "images").iterdir()} == {"JPEG"} and len(scene) == 4
    for path, before in zip(scene.source_paths, find_scene(dataset).source_paths, strict=True):
        assert cv2.PSNR(read_png(path), read_png(before)) > 40


def test_colours_keep_their_resolution() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = (200, 30, 30)
    stripes[:, 1::2] = (30, 30, 200)
    back = cv2.imdecode(np.frombuffer(encode_jpeg(stripes), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(back.astype(int) - stripes).mean() < 8, "subsampled colours would mix the stripes"
