"""A rendered 360 degree clip with a mover becomes a dataset of views, with known truth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from easi3r_ns.cli.main import main
from easi3r_ns.core.config import AlignConfig, DatasetConfig, Easi3RConfig, ExportConfig, FrameConfig, RefineConfig
from easi3r_ns.core.errors import InputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD
from easi3r_ns.core.rig import ViewRig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import check_loads, write_dataset
from easi3r_ns.dataset.scene_folder import read_scene
from easi3r_ns.evaluate.trajectory import compare_paths
from easi3r_ns.export.formats import export_scene
from easi3r_ns.export.tum import write_tum
from easi3r_ns.frames import ImageGeometry, load_frames
from easi3r_ns.frames.sphere import ViewSampler, plan_views
from easi3r_ns.motion.attention.masks import static_masks
from easi3r_ns.pipelines import geometric
from easi3r_ns.pipelines.choice import choose_weights
from easi3r_ns.pipelines.pipeline import RunConfig
from easi3r_ns.pipelines.run import process
from easi3r_ns.pipelines.sphere import check_sphere, find_rig_motion, rotations_of_all
from easi3r_ns.refine import rig as rig_mapping
from easi3r_ns.report.measures import measure
from easi3r_ns.training.scenes.cameras import handheld_path
from easi3r_ns.training.scenes.scene import SceneOptions, make_scene
from tests.frames.test_sphere import drifting
from tests.support.sphere_clip import SphereClip, film_sphere, write_clip

pycolmap = pytest.importorskip("pycolmap")
SEED, FRAMES, HEIGHT, FPS, VIEWS = 7, 7, 256, 10, 4
SELECT = FrameConfig(projection="equirect", num_frames_target=0, equirect_views=VIEWS, equirect_fov=100.0)
QUICK = RunConfig(
    SELECT,
    Easi3RConfig(weights="none", depth="none", motion="attention"),
    dataset=DatasetConfig(report=False, num_downscales=0),
)


@pytest.fixture(scope="module")
def truth() -> SphereClip:
    times = np.arange(FRAMES) / FPS
    scene = make_scene(SEED, SceneOptions("held_out", 2, 1.5, True, False))
    path = handheld_path(scene, np.arange(16) / FPS, np.random.RandomState(SEED))
    return film_sphere(scene, path[:FRAMES], times, HEIGHT)


def made(truth: SphereClip, root: Path, config: RunConfig) -> Scene:
    data = write_clip(root / "round.mp4", truth.frames, fps=FPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(geometric, "GEOMETRY", ImageGeometry(size=192))
        patch.setattr(rig_mapping, "FEATURES", 400)
        process(data, root / "out", config, overwrite=False, log=RunLog())
    return read_scene(root / "out" / "scene")


@pytest.fixture(scope="module")
def root(truth: SphereClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sphere")
    made(truth, root, QUICK)
    return root


def true_masks(truth: SphereClip, scene: Scene) -> np.ndarray:
    """(F, H, W) what moves in the views of a scene."""
    sampler = ViewSampler(plan_views((2 * HEIGHT, HEIGHT), SELECT, Path("round.mp4")))
    assert scene.rig is not None
    out = []
    for view, moment in zip(scene.rig.view, scene.rig.moment):
        moving = np.repeat(truth.moving[moment][..., None].astype(np.uint8) * 255, 3, axis=2)
        image = Image.fromarray(sampler(moving)[view][..., 0])
        out.append(np.asarray(image.resize(scene.pixel_map.network_wh)) > 127)
    return np.stack(out)


def check_cameras(truth: SphereClip, scene: Scene) -> None:
    rig = scene.rig
    assert rig is not None and len(scene) == VIEWS * FRAMES
    for view in range(VIEWS):
        own = rig.view == view
        turned = np.eye(4)
        turned[:3, :3] = Rotation.from_euler("y", 90 * view, degrees=True).as_matrix()
        errors = compare_paths(scene.T_world_cam[own], truth.T_world_rig[rig.moment[own]] @ turned)
        assert errors.ate < 0.003 * errors.path_length
        assert errors.rpe_rotation_deg < 0.1
    poses = rig.rig_poses(scene.T_world_cam)
    np.testing.assert_allclose(poses, poses[:FRAMES][rig.moment], atol=1e-6)
    # Directions, not only their changes: all views are turned against the truth by one rotation.
    off = truth.T_world_rig[rig.moment][:, :3, :3] @ np.swapaxes(poses[:, :3, :3], 1, 2)
    mean = Rotation.from_matrix(off).mean()
    assert np.degrees((Rotation.from_matrix(off) * mean.inv()).magnitude()).max() < 0.1


def overlap(masks: np.ndarray, true: np.ndarray) -> float:
    return float((masks & true).sum() / (masks | true).sum())


@pytest.mark.slow
def test_cameras_and_masks_are_right(root: Path, truth: SphereClip) -> None:
    scene = read_scene(root / "out" / "scene")
    check_cameras(truth, scene)
    true = true_masks(truth, scene)
    assert true[scene.rig.view == 0].any(axis=(1, 2)).all()
    assert overlap(scene.dynamic.masks, true) > 0.7
    focal = scene.focals / scene.pixel_map.scale_xy[0]
    np.testing.assert_allclose(focal, scene.pixel_map.source_wh[0] / 2 / np.tan(np.radians(50)), rtol=1e-9)


@pytest.mark.long
def test_second_look_finds_what_moves_all_around(truth: SphereClip, tmp_path: Path) -> None:
    scene = made(truth, tmp_path, replace(QUICK, easi3r=Easi3RConfig(weights="none")))
    check_cameras(truth, scene)
    true = true_masks(truth, scene)
    assert scene.has_depth
    assert overlap(scene.dynamic.masks, true) > 0.7


def test_dataset_is_named_by_frame_and_view(root: Path) -> None:
    out = root / "out"
    meta = json.loads((out / "transforms.json").read_text(encoding="utf-8"))
    stems = {f"frame_{k + 1:05d}_view{v + 1}" for k in range(FRAMES) for v in range(VIEWS)}
    assert {Path(frame["file_path"]).stem for frame in meta["frames"]} == stems
    for frame in meta["frames"]:
        assert (out / frame["file_path"]).is_file() and (out / frame["mask_path"]).is_file()
        assert Path(frame["mask_path"]).stem == Path(frame["file_path"]).stem
        assert frame["time"] == pytest.approx((int(Path(frame["file_path"]).stem[6:11]) - 1) / FPS)
    assert len({frame["frame_index"] for frame in meta["frames"]}) == FRAMES
    assert meta["w"] == meta["h"] == 2 * round(meta["cx"])
    assert not (out / ".easi3r").exists()


def test_whole_moments_are_held_out(root: Path, tmp_path: Path) -> None:
    """By nerfstudio's own parser: no view that is evaluated has a neighbour of its moment in training."""
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parser = NerfstudioDataParserConfig(data=root / "out", downscale_factor=1, load_3D_points=False).setup()
    moments = {}
    for split in ("train", "val"):
        names = [path.stem for path in parser.get_dataparser_outputs(split).image_filenames]
        moments[split] = {name[:11] for name in names}
        assert len(names) == VIEWS * len(moments[split])
    assert len(moments["val"]) == 1 and len(moments["train"] | moments["val"]) == FRAMES
    assert not moments["train"] & moments["val"]
    export_scene(read_scene(root / "out" / "scene"), tmp_path, ["dnerf"], ExportConfig(max_init_points=100), RunLog())
    frames = [
        {frame["time"] for frame in json.loads((tmp_path / f"dnerf/transforms_{split}.json").read_text())["frames"]}
        for split in ("train", "test")
    ]
    assert len(frames[1]) == 1 and not frames[0] & frames[1]


def test_images_of_views_as_jpeg(root: Path, tmp_path: Path) -> None:
    config = DatasetConfig(report=False, num_downscales=1, image_format="jpeg")
    write_dataset(
        read_scene(root / "out" / "scene"), tmp_path, config, RunLog(), verify=lambda file: check_loads(file, RunLog())
    )
    files = {path.name for path in (tmp_path / "images_2").iterdir()}
    assert len(files) == VIEWS * FRAMES and "frame_00001_view2.jpg" in files
    assert Image.open(tmp_path / "images" / "frame_00001_view2.jpg").format == "JPEG"


def test_colmap_reads_the_export(root: Path) -> None:
    scene = read_scene(root / "out" / "scene")
    export_scene(scene, root / "export", ("colmap",), ExportConfig(), RunLog())
    model = pycolmap.Reconstruction(root / "export" / "colmap" / "sparse" / "0")
    assert model.num_reg_images() == len(scene)
    by_name = {image.name: image for image in model.images.values()}
    for position in range(len(scene)):
        image = by_name[f"{scene.rig.stem(position, 'colmap')}.png"]
        T = (Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam[position])[:3]
        np.testing.assert_allclose(image.cam_from_world().inverse().matrix(), T, atol=1e-5)
        assert (root / "export" / "colmap" / "images" / image.name).is_file()


def test_path_of_the_sphere_has_one_line_for_each_moment(root: Path, truth: SphereClip) -> None:
    scene = read_scene(root / "out" / "scene")
    rows = np.loadtxt(write_tum(scene, root / "path" / "tum.txt"))
    np.testing.assert_allclose(rows[:, 0], truth.times, atol=1e-9)
    T = np.tile(np.eye(4), (FRAMES, 1, 1))
    T[:, :3, :3], T[:, :3, 3] = Rotation.from_quat(rows[:, 4:]).as_matrix(), rows[:, 1:4]
    errors = compare_paths(T, truth.T_world_rig)
    assert errors.ate < 0.003 * errors.path_length


def test_report_measures_all_views_and_the_path_of_one(root: Path) -> None:
    scene = read_scene(root / "out" / "scene")
    seen = measure(scene)
    assert seen.measures.num_frames == FRAMES and seen.measures.focal_known
    of_moment = [scene.dynamic.coverage[scene.rig.moment == k].mean() for k in range(FRAMES)]
    np.testing.assert_allclose(seen.series.coverage, of_moment)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"easi3r": Easi3RConfig(weights="tiny")}, "--weights tiny.*--weights none"),
        ({"easi3r": Easi3RConfig(weights="none", focal_length=300.0)}, "--focal-length"),
        ({"easi3r": Easi3RConfig(weights="none", masks=Path("m"))}, "--masks"),
        ({"eval_data": Path("e.mp4")}, "--eval-data"),
        ({"more_data": (Path("other.mp4"),)}, "one clip at a time"),
        ({"align": AlignConfig(shared_focal=False)}, "shared-focal"),
        ({"refine": RefineConfig(camera_model="opencv-fisheye")}, "fisheye"),
    ],
)
def test_what_does_not_go_with_views_is_refused(root: Path, change: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        config = replace(QUICK, **change)
        check_sphere(root / "round.mp4", config, config.easi3r.weights)


def test_auto_takes_no_network(root: Path) -> None:
    config = replace(QUICK, easi3r=Easi3RConfig())
    choice = choose_weights(root / "round.mp4", None, config, RunLog())
    assert choice.weights == "none" and "360 degree" in choice.line


def test_plan_counts_views_as_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = str(write_clip(tmp_path / "round.mp4", drifting()))
    main(["plan", data, "--equirect", "--equirect-views", "4", "--num-frames-target", "3"])
    told = " ".join(capsys.readouterr().out.split())
    assert "12 frames" in told and "no network" in told
    with pytest.raises(SystemExit):
        main(["plan", data, "--equirect", "--weights", "tiny"])
    assert "--weights none" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("pixels", [0, 5])
def test_a_camera_that_stays_is_pinned(pixels: int, tmp_path: Path) -> None:
    first = drifting(1, HEIGHT)[0]
    data = write_clip(tmp_path / "round.mp4", np.stack([np.roll(first, pixels * k, axis=1) for k in range(4)]))
    frames = load_frames(data, tmp_path / "s", select=SELECT, geometry=ImageGeometry(size=192), log=RunLog())
    still = static_masks(len(frames), *frames.images.shape[1:3], 16)
    motion = find_rig_motion(frames, still, QUICK.easi3r, RunLog())
    assert motion.kind == ("turning" if pixels else "fixed")
    assert motion.focal == pytest.approx(frames.rig.focal)
    turned = motion.R @ np.swapaxes(frames.rig.T_rig_view[frames.rig.view, :3, :3], 1, 2)
    angles = Rotation.from_matrix(turned).as_rotvec(degrees=True)
    expected = np.zeros_like(angles)
    expected[:, 1] = -360 * pixels / (2 * HEIGHT) * frames.rig.moment
    np.testing.assert_allclose(angles, expected, atol=0.1)


def test_turns_of_one_view_are_those_of_all() -> None:
    views = plan_views((512, 256), SELECT, Path())
    rig = ViewRig(views.T_rig_view, views.focal, np.repeat(np.arange(VIEWS), 3), np.tile(np.arange(3), VIEWS))
    turns = Rotation.from_euler("yxz", [[0, 0, 0], [10, 5, -3], [20, -5, 4]], degrees=True).as_matrix()
    of_all = turns[rig.moment] @ rig.T_rig_view[rig.view, :3, :3]
    for view in range(VIEWS):
        own = of_all[rig.view == view]
        np.testing.assert_allclose(rotations_of_all(own[0].T @ own, view, rig), of_all, atol=1e-12)
