"""`easi3r check`: every export passes the rules of the programs that it is made for, and each broken rule is found."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from easi3r_ns.check import CONSUMER_NAMES
from easi3r_ns.check.brush import images_by_suffix, mask_of
from easi3r_ns.check.examine import ReadingVerdict, check_folder, known_consumers
from easi3r_ns.check.model import read_model
from easi3r_ns.check.tree import Tree
from easi3r_ns.cli import main as cli
from easi3r_ns.core.config import DatasetConfig, ExportConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.export.formats import export_scene
from tests.export.test_colmap import LENS
from tests.support.dataset_scene import make_scene

MODEL_READERS = ("brush", "lichtfeld", "gsplat", "inria", "postshot", "4dgaussians", "nerfstudio")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("store"), (160, 120), 4)[0]


@pytest.fixture(scope="module")
def out(scene, tmp_path_factory) -> Path:
    """A dataset with all exports in it."""
    folder = tmp_path_factory.mktemp("run") / "out"
    write_dataset(scene, folder, DatasetConfig(num_downscales=1, max_init_points=1000), RunLog())
    formats = ["colmap", "splat", "dnerf", "ngp", "cloud", "tum"]
    export_scene(scene, folder / "export", formats, ExportConfig(max_init_points=1000), RunLog())
    return folder


@pytest.fixture
def copy(out, tmp_path) -> Callable[[str], Path]:
    """A copy of a part of the dataset, to break."""

    def make(part: str) -> Path:
        return Path(shutil.copytree(out / part, tmp_path / "copy"))

    return make


def verdict(folder: Path, name: str) -> ReadingVerdict:
    (found,) = check_folder(folder, [name])
    return found


def failures(folder: Path, name: str) -> str:
    return " | ".join(finding.what for finding in verdict(folder, name).findings if finding.state == "fail")


@pytest.mark.parametrize(
    ("part", "name"),
    [
        *((".", name) for name in ("nerfstudio", "brush", "lichtfeld", "ngp")),
        *(("export/splat", name) for name in MODEL_READERS),
        *(("export/colmap", name) for name in ("brush", "lichtfeld", "inria", "nerfstudio")),
        ("export/dnerf", "4dgaussians"),
        ("export/dnerf", "brush"),
        ("export", "brush"),
        *(("export/ngp", name) for name in ("ngp", "nerfstudio")),
    ],
)
def test_every_export_is_read_by_those_that_it_is_for(out, part, name):
    assert verdict(out / part, name).state != "fail"


def test_the_formats_that_are_made_for_a_program_pass(out):
    for name, consumer in known_consumers().items():
        for format_ in consumer.formats:
            assert verdict(out / "export" / format_, name).state != "fail", (name, format_)
    states = {verdict(out / "export/splat", name).state for name in ("brush", "lichtfeld")}
    assert states == {"pass"} and verdict(out / "export/ngp", "ngp").state == "pass"


@pytest.mark.parametrize("name", ["brush", "lichtfeld", "gsplat", "inria", "postshot", "4dgaussians"])
def test_a_distorted_lens_passes_as_splat(scene, tmp_path, name):
    bent = replace(scene, distortion=LENS)
    export_scene(bent, tmp_path, ["splat", "colmap"], ExportConfig(max_init_points=500), RunLog())
    assert verdict(tmp_path / "splat", name).state != "fail"
    if name in ("inria", "4dgaussians"):
        assert "camera model is OPENCV" in failures(tmp_path / "colmap", name)


@pytest.mark.parametrize(("part", "name"), [("splat", "inria"), ("splat", "4dgaussians"), ("dnerf", "4dgaussians")])
def test_a_crop_on_one_side_is_not_for_readers_of_fields_of_view(scene, tmp_path, part, name):
    """They take the principal point to be in the middle: the cameras would be wrong, and nothing would say so."""
    said: list[str] = []
    log = RunLog()
    log.info = said.append  # type: ignore[method-assign]
    beside = replace(scene, principal_point=scene.principal_point - [scene.images.shape[2] / 10, 0])
    export_scene(beside, tmp_path, [part], ExportConfig(max_init_points=500), log)
    assert any("principal point" in line and "4DGaussians" in line for line in said)
    found = verdict(tmp_path / part, name)
    assert found.state == "fail" and any("not in the middle" in finding.what for finding in found.findings)
    if part == "splat":
        assert verdict(tmp_path / part, "gsplat").state != "fail"


def test_only_those_that_fit_are_asked(out):
    def asked(part: str) -> set[str]:
        return {found.name for found in check_folder(out / part)}

    assert asked(".") == {"nerfstudio", "brush", "lichtfeld", "ngp"}
    assert asked("export/splat") == set(MODEL_READERS)
    assert asked("export/dnerf") == {"brush", "lichtfeld", "4dgaussians"}
    assert asked("export") == {"brush"}
    with pytest.raises(InputError, match="holds neither transforms.json"):
        check_folder(out / "masks")


def test_files_of_others_with_the_same_end_are_found(copy):
    """What the COLMAP export in a dataset once met: depth maps that end like its images."""
    folder = copy("export/splat")
    (folder / "depths").mkdir()
    for image in (folder / "images").iterdir():
        shutil.copy(image, folder / "depths" / image.name)
    assert "it trains on depths/splat_00001.png for splat_00001.png and 3 more" in failures(folder, "brush")
    (folder / "depths").rename(folder / "masks" / "depths")
    assert verdict(folder, "brush").state == "pass"
    shutil.copy(folder / "images/splat_00001.png", folder / "a_splat_00001.png")
    assert images_by_suffix(Tree(folder), ["splat_00001.png"]) == {"splat_00001.png": "a_splat_00001.png"}


@pytest.mark.parametrize("mask", ["a.png", "a.jpg.png", "a.mask.png"])
def test_masks_of_photos_are_found_by_brush(mask):
    assert mask_of({mask: f"masks/{mask}"}, "images/a.jpg") == f"masks/{mask}"
    assert mask_of({mask: f"masks/{mask}"}, "images/aa.jpg") is None


def test_a_cloud_of_what_moves_is_no_start(copy):
    folder = copy(".")
    shutil.rmtree(folder / "export")
    assert verdict(folder, "brush").state == "pass"
    (folder / "sparse_pc.ply").unlink()
    assert "dynamic/frame_00004.ply" in failures(folder, "brush")


def edited(folder: Path, file: str, change: Callable[[dict], None]) -> Path:
    meta = json.loads((folder / file).read_text())
    change(meta)
    (folder / file).write_text(json.dumps(meta))
    return folder


def zoom(meta: dict) -> None:
    for k, frame in enumerate(meta["frames"]):
        frame |= {"fl_x": meta["fl_x"] * (1 + k / 10), "fl_y": meta["fl_y"] * (1 + k / 10)}
    del meta["fl_x"], meta["fl_y"]


def drop(key: str) -> Callable[[dict], None]:
    return lambda meta: meta.pop(key)


def put(key: str, value: object) -> Callable[[dict], None]:
    return lambda meta: meta.__setitem__(key, value)


def of_frame(key: str, value: object) -> Callable[[dict], None]:
    return lambda meta: meta["frames"][2].__setitem__(key, value)


@pytest.mark.parametrize(
    ("part", "file", "change", "name", "says"),
    [
        (".", "transforms.json", zoom, "lichtfeld", "counts as a panorama"),
        (".", "transforms.json", of_frame("fl_x", 7.0), "lichtfeld", "different lenses"),
        (
            ".",
            "transforms.json",
            of_frame("file_path", "images/no.png"),
            "lichtfeld",
            "no.png is missing (1 of 4)",
        ),
        (".", "transforms.json", put("camera_model", "PINHOLE"), "ngp", ""),
        (".", "transforms.json", drop("aabb_scale"), "ngp", "aabb_scale"),
        (".", "transforms.json", put("aabb_scale", 3), "ngp", "not a power of two"),
        (".", "transforms.json", put("aabb_scale", 256), "ngp", "not a power of two"),
        (".", "transforms.json", drop("integer_depth_scale"), "ngp", "without integer_depth_scale"),
        (".", "transforms.json", of_frame("depth_path", "no.png"), "ngp", "no.png is missing"),
        (".", "transforms.json", of_frame("transform_matrix", [[1]]), "ngp", "no transform_matrix"),
        (".", "transforms.json", of_frame("transform_matrix", [[1]]), "nerfstudio", "no transform_matrix"),
        (".", "transforms.json", of_frame("file_path", "images/no.png"), "nerfstudio", "no.png is missing"),
        (".", "transforms.json", drop("frames"), "nerfstudio", "no list of frames"),
        (".", "transforms.json", drop("fl_x"), "ngp", "neither fl_x nor camera_angle_x"),
        (".", "transforms.json", drop("fl_x"), "nerfstudio", "nerfstudio cannot load"),
        ("export/dnerf", "transforms_train.json", drop("camera_angle_x"), "4dgaussians", "no camera_angle_x"),
        ("export/dnerf", "transforms_test.json", drop("frames"), "4dgaussians", "no list of frames"),
        ("export/dnerf", "transforms_train.json", of_frame("time", None), "4dgaussians", "a frame has no time"),
        ("export/dnerf", "transforms_train.json", of_frame("file_path", "images/00001.png"), "4dgaussians", "appended"),
        ("export/dnerf", "transforms_train.json", put("k1", 0.1), "4dgaussians", "distortion"),
        ("export/dnerf", "transforms_train.json", put("camera_model", "PINHOLE"), "brush", "PINHOLE is refused"),
    ],
)
def test_a_broken_json_is_told(copy, part, file, change, name, says):
    folder = edited(copy(part), file, change)
    assert says in failures(folder, name) and bool(says) == (verdict(folder, name).state == "fail")


def remove(*parts: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        for part in parts:
            path = folder / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return act


def resize(part: str) -> Callable[[Path], None]:
    return lambda folder: Image.new("L", (9, 9)).save(folder / part)


def write(part: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / part).write_bytes(content)


@pytest.mark.parametrize(
    ("part", "act", "name", "says"),
    [
        ("splat", remove("images_4"), "gsplat", "no images_4"),
        ("splat", remove("images_4/splat_00002.png"), "gsplat", "images_4 has 3 files, images 4"),
        ("splat", remove("images/splat_00002.png"), "gsplat", "images/splat_00002.png is missing (1 of 4)"),
        ("splat", remove("images/splat_00002.png"), "inria", "is missing (1 of 4)"),
        ("splat", remove("images/splat_00002.png", "images_2", "images_4", "images_8"), "brush", "is nowhere"),
        ("splat", remove("images/splat_00002.png"), "brush", "images_2/splat_00002.png is 80x60, its camera 160x120"),
        ("splat", resize("masks/splat_00003.png"), "brush", ""),  # it resizes masks
        ("splat", resize("images/splat_00003.png"), "lichtfeld", "is 9x9, its camera 160x120"),
        ("splat", resize("masks/splat_00003.png"), "lichtfeld", "masks/splat_00003.png is 9x9"),
        ("splat", resize("masks/splat_00003.png"), "postshot", "masks/splat_00003.png is 9x9"),
        ("splat", remove("masks/splat_00003.png"), "postshot", "splat_00003.png has no mask (1 of 4"),
        ("splat", remove("masks/splat_00003.png"), "brush", "splat_00003.png has no mask (1 of 4"),
        ("splat", write("images/splat_00003.png", b"no"), "gsplat", "cannot be read as an image"),
        ("splat", write("sparse/0/images.bin", b"no"), "gsplat", "no COLMAP model that can be read"),
        ("splat", write("sparse/0/points3D.bin", struct.pack("<Q", 0)), "inria", "no points"),
        ("splat", remove("sparse"), "inria", "no model in sparse/0"),
        ("colmap", remove("text"), "postshot", "has not the base name of its image"),
        ("ngp", remove("images/dynamic_mask_ngp_00001.png"), "ngp", "dynamic_mask_ngp_00001.png is missing (1 of 4)"),
        ("ngp", resize("images/dynamic_mask_ngp_00001.png"), "ngp", "another size"),
        ("dnerf", remove("transforms_test.json"), "4dgaussians", "there is no transforms_test.json"),
    ],
)
def test_a_broken_folder_is_told(copy, part, act, name, says):
    folder = copy(f"export/{part}")
    act(folder)
    found = failures(folder, name)
    assert says in found and bool(says) == bool(found)


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write anywhere")
def test_a_read_only_model_needs_its_cloud(copy):
    folder = copy("export/splat")
    (folder / "sparse/0").chmod(0o500)
    assert failures(folder, "inria") == ""
    (folder / "sparse/0").chmod(0o700)
    (folder / "sparse/0/points3D.ply").unlink()
    (folder / "sparse/0").chmod(0o500)
    assert "cannot be written" in failures(folder, "inria")


def test_binary_and_text_say_the_same(out):
    binary, text = read_model(out / "export/colmap/sparse/0"), read_model(out / "export/colmap/text")
    assert binary == text and len(binary.images) == 4 and all(image.observed > 100 for image in binary.images)


def test_an_image_that_observes_nothing_is_told(copy):
    folder = copy("export/colmap/text")
    lines = (folder / "images.txt").read_text().splitlines()
    lines[5] = ""  # two lines of comments, then two a picture
    (folder / "images.txt").write_text("\n".join(lines[:-1]) + "\n")
    model = read_model(folder)
    assert [image.observed == 0 for image in model.images] == [False, True, False, True]
    (folder / "sparse/0").mkdir(parents=True)
    for name in ("cameras.txt", "images.txt", "points3D.txt"):
        (folder / name).rename(folder / "sparse/0" / name)
    assert "colmap_00002.png and 1 more observes no point (2 of 4)" in failures(folder, "gsplat")


@pytest.mark.parametrize("cut", [0, 7, 8, 30, 60, -1])
@pytest.mark.parametrize("name", ["cameras", "images"])
def test_a_cut_model_is_one_line(copy, name, cut):
    file = copy("export/splat/sparse/0") / f"{name}.bin"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(InputError, match="no COLMAP model|has no images|is not there"):
        read_model(file.parent)


@pytest.mark.parametrize(
    "content", [b"\xff" * 64, struct.pack("<Q", 2**63), struct.pack("<QIiQQ", 1, 1, 99, 4, 4), b"\0" * 8]
)
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_numbers_that_no_file_can_hold_are_one_line(copy, name, content):
    folder = copy("export/splat/sparse/0")
    (folder / f"{name}.bin").write_bytes(content)
    if name == "points3D" and content == b"\0" * 8:
        assert read_model(folder).num_points == 0
        return
    try:
        read_model(folder)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert name == "points3D"  # only its number of entries is read


@pytest.mark.parametrize("camera", ["1 PINHOLE 160 120", "1 PINHOLE 160 120 9 80 60", "1 PINHOLE 0 120 9 9 80 60"])
def test_a_camera_that_is_none_is_one_line(out, tmp_path, camera):
    folder = Path(shutil.copytree(out / "export/colmap/text", tmp_path / "sparse/0"))
    (folder / "cameras.txt").write_text(camera + "\n")
    assert "sparse/0 holds no COLMAP model that can be read" in failures(tmp_path, "inria")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
@pytest.mark.parametrize("file", ["images/splat_00002.png", "sparse/0/images.bin", "masks/splat_00002.png"])
def test_a_pipe_does_not_hold_the_check_up(copy, file):
    folder = copy("export/splat")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    assert "not a regular file" in failures(folder, "lichtfeld")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{}", "[]", '{"frames": [3]}', '{"frames": [{"file_path": 3}]}', "nul"]
)
@pytest.mark.parametrize("name", ["nerfstudio", "lichtfeld", "ngp", "brush"])
def test_json_of_strangers_is_one_line(tmp_path, text, name):
    (tmp_path / "transforms.json").write_text(text)
    (finding,) = [found for found in verdict(tmp_path, name).findings if found.state == "fail"][:1]
    assert "transforms.json" in finding.what and "\n" not in finding.what


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_no_text(copy, capfd):
    folder = copy("export/splat")
    os.rename(folder / "images/splat_00002.png", os.fsencode(folder / "images") + b"/\xff.png")
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", str(folder), "--for", "gsplat", "brush"])
    printed = capfd.readouterr()
    assert caught.value.code == 1 and "Traceback" not in printed.err and "splat_00002.png" in printed.out


def test_images_outside_of_the_folder_are_found(out, tmp_path):
    """A JSON of others may name them by .. or by a full path."""
    meta = json.loads((out / "transforms.json").read_text())
    for kind, base in (("up", "../out/"), ("full", f"{out}/")):
        folder = tmp_path / kind
        folder.mkdir()
        (tmp_path / "out").exists() or (tmp_path / "out").symlink_to(out)
        frames = [{**frame, "file_path": base + frame["file_path"]} for frame in meta["frames"]]
        (folder / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))
        assert failures(folder, "lichtfeld") == ""


def test_the_table_and_the_json(out, capsys):
    cli.main(["check", str(out), "--for", "nerfstudio,brush", "lichtfeld"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "nerfstudio 1.1.5, by its own loader" in printed
    assert "Brush 1.0, by its rules, not by the program itself" in printed
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", str(out / "export/colmap"), "--for", "gsplat", "--json"])
    assert caught.value.code == 1
    (told,) = json.loads(capsys.readouterr().out)
    assert told["for"] == "gsplat" and told["state"] == "fail" and told["by"] == "rule"
    assert any(finding["remedy"].startswith("--data_factor 1") for finding in told["findings"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["OUT/transforms.json"], "is not a folder"),
        (["OUT", "--for", "blender"], "choose from nerfstudio, brush"),
        (["OUT/images"], "holds neither transforms.json"),
    ],
)
def test_errors_are_one_line(out, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", *(word.replace("OUT", str(out)) for word in arguments)])
    printed = capsys.readouterr()
    assert caught.value.code == 2 and message in " ".join((printed.err + printed.out).split())
    assert "Traceback" not in printed.err


def test_every_program_has_rules_and_a_way_to_them(out):
    consumers = known_consumers()
    assert tuple(consumers) == CONSUMER_NAMES
    empty = out / "masks"
    for name in CONSUMER_NAMES:
        found = verdict(empty, name)
        assert found.state == "fail" and all(f.remedy for f in found.findings if f.state == "fail")


def test_nothing_is_changed(out):
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    check_folder(out)
    check_folder(out / "export/splat")
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert np.all([path.exists() for path in before])
