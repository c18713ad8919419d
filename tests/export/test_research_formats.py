"""`dnerf`, `ngp`, `megasam` and `vipe`, read back the way their readers do, against the truth of an analytic room."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from easi3r_ns.core.config import ExportConfig, MeshConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, FisheyeDistortion, distort, opencv_to_opengl, transform
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import INTERPOLATED, PNP, PosedFrames, Scene
from easi3r_ns.export import EXPORTERS
from easi3r_ns.export.dnerf import DnerfOptions, dnerf_files, write_dnerf
from easi3r_ns.export.exporter import ExportJob
from easi3r_ns.export.exr import exr_bytes
from easi3r_ns.export.formats import export_scene
from easi3r_ns.export.megasam import clip_name, write_megasam
from easi3r_ns.export.ngp import write_ngp
from easi3r_ns.export.vipe import vipe_files, write_vipe
from easi3r_ns.storage.files import read_png
from tests.export.test_colmap import LENS
from tests.support.dataset_scene import Truth, make_scene, source_pixels

WH = (320, 213)
SMALL = DnerfOptions(max_points=2000)


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> tuple[Scene, Truth]:
    return make_scene(tmp_path_factory.mktemp("store"), WH, 4)


def cameras(scene: Scene) -> np.ndarray:
    return Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam


def dnerf_reader(folder: Path, split: str) -> list[tuple[float, np.ndarray, np.ndarray, float]]:
    """Time, camera-to-world, image and horizontal field of view, as readers of D-NeRF take them."""
    meta = json.loads((folder / f"transforms_{split}.json").read_text())
    images = [cv2.imread(str(folder / (frame["file_path"] + ".png")), -1) for frame in meta["frames"]]
    poses = [np.array(frame["transform_matrix"]) for frame in meta["frames"]]
    times = [frame["time"] for frame in meta["frames"]]
    return [(*entry, meta["camera_angle_x"]) for entry in zip(times, poses, images)]


def test_dnerf_readers_find_times_cameras_and_images(room, tmp_path):
    scene, truth = room
    write_dnerf(scene, tmp_path, SMALL)
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == dnerf_files(scene)
    assert all(int(Path(file).stem) >= 0 for file in written if file.startswith("images/"))
    train, test = dnerf_reader(tmp_path, "train"), dnerf_reader(tmp_path, "test")
    assert len(train) == 3 and len(test) == 1 == len(dnerf_reader(tmp_path, "val"))
    frames = sorted(train + test, key=lambda entry: entry[0])
    np.testing.assert_allclose([time for time, *_ in frames], [0, 1 / 3, 2 / 3, 1])
    for position, (_, pose, image, angle) in enumerate(frames):
        np.testing.assert_allclose(pose, opencv_to_opengl(cameras(scene)[position]), atol=1e-12)
        np.testing.assert_array_equal(image[..., ::-1], read_png(scene.source_paths[position]))
        assert WH[0] / (2 * np.tan(angle / 2)) == pytest.approx(truth.focal)


def test_dnerf_clouds_have_what_inrias_reader_takes(room, tmp_path):
    write_dnerf(room[0], tmp_path, SMALL)
    assert (tmp_path / "points3d.ply").read_bytes() == (tmp_path / "fused.ply").read_bytes()
    header = (tmp_path / "fused.ply").read_bytes().split(b"end_header")[0].decode()
    names = [line.split()[-1] for line in header.splitlines() if line.startswith("property")]
    assert names == ["x", "y", "z", "nx", "ny", "nz", "red", "green", "blue"]


def test_dnerf_seconds_alpha_and_zoom(room, tmp_path):
    scene, truth = room
    write_dnerf(scene, tmp_path / "a", replace(SMALL, seconds=True, alpha="moving"))
    frames = dnerf_reader(tmp_path / "a", "train")
    np.testing.assert_allclose([time for time, *_ in frames], scene.times[[0, 1, 3]])
    hit = truth.cast(1, source_pixels(WH))[2]
    assert frames[1][2].shape == (213, 320, 4) and (frames[1][2][hit][:, 3] == 255).all()
    said: list[str] = []
    log = RunLog()
    log.info = said.append
    zoom = replace(scene, focals=scene.focals * [1, 1.1, 1.2, 1.3])
    export_scene(zoom, tmp_path, ["dnerf"], ExportConfig(max_init_points=1000), log)
    meta = json.loads((tmp_path / "dnerf/transforms_train.json").read_text())
    assert "camera_angle_x" not in meta and "fl_x" not in meta
    assert [frame["fl_x"] / truth.focal for frame in meta["frames"]] == pytest.approx([1, 1.1, 1.3])
    assert any("no camera_angle_x" in line for line in said)


def test_dnerf_takes_found_frames_in_between_only(room, tmp_path):
    scene, _ = room
    bits = np.packbits(scene.dynamic.masks[:2], axis=-1)
    between = PosedFrames(
        T_world_cam=scene.T_world_cam[:2],
        focals=scene.focals[:2],
        after=np.array([0, 1]),
        mask_bits=bits,
        times=np.array([0.55, 0.65]),
        indices=np.array([1, 4]),
        names=("clip.mp4",) * 2,
        source_paths=scene.source_paths[:2],
        pose_sources=(PNP, INTERPOLATED),
    )
    scene = replace(scene, between=between)
    write_dnerf(scene, tmp_path, SMALL)
    assert len(list((tmp_path / "images").iterdir())) == 5
    said: list[str] = []
    log = RunLog()
    log.info = said.append
    others = ["splat", "colmap", "ngp", "megasam", "vipe"]
    export_scene(scene, tmp_path / "others", others, ExportConfig(max_init_points=500), log)
    assert [f"{name}: the 2 frames in between are left out" in " ".join(said) for name in others] == [True] * 5
    write_dnerf(make_scene(tmp_path / "one", WH, 1)[0], tmp_path / "single", SMALL)
    assert len(dnerf_reader(tmp_path / "single", "train")) == len(dnerf_reader(tmp_path / "single", "test")) == 1


@pytest.mark.parametrize("lens", [(0.0,) * 4, LENS], ids=["pinhole", "lens"])
def test_instant_ngp_ignores_what_moves(room, tmp_path, lens):
    scene, truth = room
    write_ngp(replace(scene, distortion=lens), tmp_path)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    assert meta["k1"] == lens[0] and meta["fl_x"] == pytest.approx(truth.focal) and meta["aabb_scale"] >= 2
    for position, frame in enumerate(meta["frames"]):
        image = tmp_path / frame["file_path"]
        assert image.read_bytes() == scene.source_paths[position].read_bytes()
        mask = cv2.imread(str(image.with_name(f"dynamic_mask_{image.stem}.png")), cv2.IMREAD_UNCHANGED)
        depth, _, hit = truth.cast(position, source_pixels(WH))
        assert mask.shape == (213, 320) and (mask[hit] > 0).all() and (mask == 0).mean() > 0.5
        shown = cv2.imread(str(tmp_path / frame["depth_path"]), cv2.IMREAD_UNCHANGED) * meta["integer_depth_scale"]
        known = (shown > 0) & (mask == 0)
        assert known.mean() > 0.3 and np.median(np.abs(shown - depth)[known]) < 0.002


def test_a_fisheye_is_a_fisheye_or_taken_out(room, tmp_path):
    """Also where all its numbers are 0: an equidistant lens bends straight lines too."""
    pycolmap = pytest.importorskip("pycolmap")
    scene, lens = room[0], FisheyeDistortion((0.0, 0.0, 0.0, 0.0))
    others = ["colmap", "splat", "ngp", "dnerf", "megasam"]
    export_scene(replace(scene, distortion=lens), tmp_path, others, ExportConfig(max_init_points=500), RunLog())
    for name, kind in (("colmap", "OPENCV_FISHEYE"), ("splat", "PINHOLE")):
        assert pycolmap.Reconstruction(str(tmp_path / name / "sparse/0")).cameras[1].model.name == kind
    meta = json.loads((tmp_path / "ngp/transforms.json").read_text())
    assert meta["is_fisheye"] is True and "k4" in meta and "p1" not in meta
    assert not np.array_equal(np.load(tmp_path / "megasam/clip_sgd_cvd_hr.npz")["images"], scene.images)
    image = read_png(tmp_path / "dnerf/images/00001.png")
    assert not np.array_equal(image, read_png(scene.source_paths[1]))
    # A point 20 degrees off the axis: at the angle in the source, at its tangent where the lens is taken out.
    focal, angle = room[1].focal, np.radians(20)
    shown, source = (np.rint([160 + focal * r - 0.5, 106]).astype(int) for r in (np.tan(angle), angle))
    pixel = read_png(scene.source_paths[1])[source[1], source[0]].astype(int)
    assert np.abs(image[shown[1], shown[0]].astype(int) - pixel).max() < 12


def test_what_is_too_far_for_a_megasam_file_is_unknown_there(room, tmp_path):
    near = room[0]
    far = replace(near, depth=near.depth * (100 / np.median(near.depth[near.depth > 0])))
    depths = np.load(next(write_megasam(far, tmp_path / "far").glob("*.npz")))["depths"]
    assert (depths[far.depth > 100.1] == 0).all() and (far.depth > 100.1).any()
    seen = (far.depth > 0) & (far.depth < 99.9)
    np.testing.assert_allclose(depths[seen], far.depth[seen], rtol=1e-3)


@pytest.mark.parametrize(
    ("name", "alpha", "border"),
    [
        ("dnerf", "none", "trained on: --alpha static makes it transparent"),
        ("dnerf", "static", "transparent"),
        ("megasam", "none", "has no depth"),
        ("vipe", "none", "has no depth"),
    ],
)
def test_what_becomes_of_the_border_of_a_distorted_lens_is_told(room, name, alpha, border):
    """These formats have no masks of what the source does not show."""
    scene = replace(room[0], distortion=(-0.1, 0.0, 0.0, 0.0))
    job = ExportJob(scene, Path("out"), ExportConfig(alpha=alpha), MeshConfig())
    (exporter,) = (entry.load("EXPORTER") for entry in EXPORTERS if entry.name == name)
    (remark,) = exporter.says(job)
    assert remark.startswith("images are undistorted") and remark.endswith(f"black, and {border}")


def test_megasam_unprojects_onto_the_room(room, tmp_path):
    scene, truth = room
    write_megasam(scene, tmp_path)
    archive = np.load(tmp_path / "clip_sgd_cvd_hr.npz")
    assert archive["images"].dtype == np.uint8 and archive["depths"].dtype == np.float16
    K, c2w = archive["intrinsic"], archive["cam_c2w"]
    height, width = archive["depths"].shape[1:]
    y, x = np.mgrid[:height, :width]
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K).T
    inside = Z_UP_FROM_OPENCV_WORLD[:3, :3]
    for frame in range(4):
        world = transform(c2w[frame], rays * archive["depths"][frame][..., None].astype(float)) @ inside
        at = truth.project(frame, world)
        depth, _, _ = truth.cast(frame, at)
        close = np.abs(archive["depths"][frame] - depth) < 0.01 * depth
        assert close.mean() > 0.95
    motion = np.load(tmp_path / "reconstructions/clip/motion_prob.npy")
    assert motion.shape == (4, height // 8, width // 8)
    assert motion.mean() == pytest.approx(scene.dynamic.masks.mean(), abs=0.02)
    assert motion.max() == 1 and motion.min() == 0


def test_megasam_depth_and_motion_of_a_distorted_lens_lie_with_its_image(room, tmp_path):
    """The image of a bent grid: a marked pixel is found where the ideal lens shows it, in all three."""
    scene, _ = room
    height, width = scene.depth.shape[1:]
    ideal = (np.array([100.0, 20.0]) - scene.principal_point) / scene.focals_xy[0]
    column, row = np.rint(distort(ideal, LENS) * scene.focals_xy[0] + scene.principal_point).astype(int)
    images, depth, masks = np.zeros_like(scene.images), np.full_like(scene.depth, 2), np.zeros_like(scene.dynamic.masks)
    spot = np.s_[:, row - 1 : row + 2, column - 1 : column + 2]
    images[spot], depth[spot], masks[spot] = 255, 7, True
    bent = replace(scene, images=images, depth=depth, dynamic=replace(scene.dynamic, masks=masks), distortion=LENS)
    write_megasam(bent, tmp_path)
    archive = np.load(tmp_path / "clip_sgd_cvd_hr.npz")
    assert archive["images"][0, 20, 100].min() > 250 and archive["depths"][0, 20, 100] == 7
    motion = np.load(tmp_path / "reconstructions/clip/motion_prob.npy")
    assert np.unravel_index(motion[0].argmax(), motion[0].shape) == (2, 12)


def test_megasam_has_one_lens(room, tmp_path):
    zoom = replace(room[0], focals=room[0].focals * [1, 1, 1, 1.01])
    with pytest.raises(InputError, match="--format megasam: .* one focal length"):
        export_scene(zoom, tmp_path / "out", ["megasam"], ExportConfig(), RunLog())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lens", [(0.0,) * 4, LENS], ids=["pinhole", "lens"])
def test_vipe_artefacts_agree_with_one_another(room, tmp_path, lens):
    """Video, poses, lenses, depth and masks: the depth of every frame unprojects onto the walls of the room."""
    scene, truth = replace(room[0], distortion=lens), room[1]
    write_vipe(scene, tmp_path)
    written = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert written == vipe_files(scene)
    with av.open(str(tmp_path / "rgb/clip.mp4")) as video:
        shown = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert float(video.streams.video[0].average_rate) == pytest.approx(10)
    assert [image.shape for image in shown] == [(212, 320, 3)] * 4
    pose, lenses = np.load(tmp_path / "pose/clip.npz"), np.load(tmp_path / "intrinsics/clip.npz")
    assert pose["inds"].tolist() == lenses["inds"].tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(pose["data"], cameras(scene), atol=1e-6)
    np.testing.assert_allclose(lenses["data"], [[truth.focal, truth.focal, 160, 106.5]] * 4)
    kinds = (tmp_path / "intrinsics/clip_camera.txt").read_text().splitlines()
    assert kinds == [f"{k}: PINHOLE" for k in range(4)]
    with zipfile.ZipFile(tmp_path / "mask/clip.zip") as masks, zipfile.ZipFile(tmp_path / "depth/clip.zip") as depths:
        assert masks.namelist() == [f"{k:05d}.png" for k in range(4)]
        assert depths.namelist() == [f"{k:05d}.exr" for k in range(4)]
        mask = cv2.imdecode(np.frombuffer(masks.read("00001.png"), np.uint8), cv2.IMREAD_UNCHANGED)
        content = depths.read("00001.exr")
    if not any(lens):
        expected, _, hit = truth.cast(1, source_pixels(WH)[:212])
        assert (mask[hit] == 1).all() and 0 < mask.mean() < 0.5 and set(np.unique(mask)) == {0, 1}
        depth = own_exr(content)
        known = (depth > 0) & (mask == 0)
        assert known.mean() > 0.4 and np.median(np.abs(depth - expected)[known]) < 0.004
        # Video: lossy, and half the resolution for colours.
        assert np.abs(shown[1].astype(int) - read_png(scene.source_paths[1])[:212]).mean() < 8


def own_exr(content: bytes) -> np.ndarray:
    """The lines at the end of a file without compression, by the sizes that its writer is given."""
    height, width = 212, 320
    lines = np.frombuffer(content[-height * (8 + 2 * width) :], np.uint8).reshape(height, -1)
    return np.ascontiguousarray(lines[:, 8:]).view(np.float16).astype(float)


def test_openexr_reads_the_depth(tmp_path):
    openexr = pytest.importorskip("OpenEXR")
    depth = np.random.default_rng(0).uniform(0, 60, (37, 53)).astype(np.float32)
    depth[3:7] = 0
    (tmp_path / "depth.exr").write_bytes(exr_bytes(depth))
    with openexr.File(str(tmp_path / "depth.exr"), separate_channels=True) as file:
        channels = file.channels()
        assert list(channels) == ["Z"] and channels["Z"].pixels.dtype == np.float16
        np.testing.assert_array_equal(channels["Z"].pixels, depth.astype(np.float16))


@pytest.mark.parametrize("name", ["dnerf", "ngp", "megasam", "vipe", "splat"])
def test_twice_gives_identical_bytes(room, tmp_path, name):
    config = ExportConfig(max_init_points=1000)
    for folder in ("a", "b"):
        export_scene(room[0], tmp_path / folder, [name], config, RunLog())
    files = [file.relative_to(tmp_path / "a") for file in (tmp_path / "a").rglob("*") if file.is_file()]
    assert len(files) >= 2
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_names_of_clips(room):
    named = replace(room[0], names=("Ä b:c.MOV",) * 4)
    assert clip_name(named) == "b_c"
    assert clip_name(replace(room[0], names=("a.png", "b.png", "c.png", "d.png"))) == "images"
    assert clip_name(replace(room[0], names=("日本.mp4",) * 4)) == "clip"


def test_a_scene_without_depth_gives_what_it_can(room, tmp_path):
    nothing = np.zeros_like(room[0].depth)
    scene = replace(room[0], depth=nothing, confidence=nothing)
    export_scene(scene, tmp_path, ["vipe", "ngp"], ExportConfig(), RunLog())
    assert not (tmp_path / "vipe/depth").exists() and not (tmp_path / "ngp/depths").exists()
    for name in ("dnerf", "megasam"):
        with pytest.raises(InputError, match=f"--format {name}"):
            export_scene(scene, tmp_path / "no", [name], ExportConfig(), RunLog())
    assert not (tmp_path / "no").exists()
