"""Meshes and clouds against the true surface of a rendered clip; every file read back by Open3D (and trimesh)."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from easi3r_ns.core.config import DatasetConfig, ExportConfig, MeshConfig
from easi3r_ns.core.errors import InputError, OutputError
from easi3r_ns.core.geometry import Z_UP_FROM_OPENCV_WORLD, distort, pixel_grid, transform, undistort
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene
from easi3r_ns.dataset.nerfstudio import write_dataset
from easi3r_ns.export import EXPORT_FORMATS
from easi3r_ns.export.cloud import estimate_normals, facing
from easi3r_ns.export.formats import export_scene
from easi3r_ns.export.gltf import srgb_to_linear
from easi3r_ns.export.mesh.dynamic import dynamic_mesh
from easi3r_ns.export.mesh.files import write_mesh
from easi3r_ns.export.mesh.static import MESH_FILES, poisson, simplified, static_mesh, without_specks
from easi3r_ns.export.mesh.triangles import Mesh, canonical, vertex_normals
from easi3r_ns.export.mesh.tsdf import Resolution, choose_resolution, disagreement, fuse, static_depths
from tests.support.clip_scene import TrueSurface, perfect_scene, sharp_clip

open3d = pytest.importorskip("open3d")

FRAMES, HEIGHT, WIDTH = 8, 72, 96


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return perfect_scene(sharp_clip(3, FRAMES, HEIGHT, WIDTH), tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def truth() -> TrueSurface:
    return TrueSurface(sharp_clip(3, FRAMES, 3 * HEIGHT, 3 * WIDTH))


@pytest.fixture(scope="module")
def mesh(scene) -> Mesh:
    return static_mesh(scene)


def voxel(scene: Scene) -> float:
    return choose_resolution(scene, static_depths(scene, 3)).voxel


def noisy(scene: Scene, share: float) -> Scene:
    factor = 1 + share * np.random.default_rng(0).standard_normal(scene.depth.shape)
    return replace(scene, depth=(scene.depth * factor).astype(np.float32))


def test_the_fused_surface_is_the_true_one(scene, truth, mesh):
    assert 5000 < len(mesh.triangles)
    distances = truth.distances(mesh.vertices) / voxel(scene)
    assert np.median(distances) < 0.15 and np.quantile(distances, 0.99) < 0.6
    assert np.quantile(truth.completeness(mesh.vertices) / voxel(scene), 0.8) < 1.2


def test_normals_look_at_the_cameras_and_stand_on_the_surface(scene, mesh):
    towards = scene.T_world_cam[:, :3, 3].mean(axis=0) - mesh.vertices
    assert ((mesh.normals * towards).sum(axis=1) > 0).mean() > 0.98
    np.testing.assert_allclose(np.linalg.norm(mesh.normals, axis=1), 1, atol=1e-5)


def test_colours_are_those_of_the_images(truth, mesh):
    _, nearest = truth.tree.query(mesh.vertices)
    assert np.median(np.abs(mesh.colors.astype(int) - truth.colors[nearest])) < 6


def test_movers_are_left_out(scene, truth, mesh):
    """With the masks taken away they do get a surface: the masks are what keeps them out."""
    still = replace(scene, dynamic=replace(scene.dynamic, masks=np.zeros_like(scene.dynamic.masks)))

    def on_movers(points):
        away = truth.distances(points) > 2 * voxel(scene)
        return int((away & (truth.moving.query(points)[0] < voxel(scene))).sum())

    assert on_movers(mesh.vertices) == 0
    assert on_movers(static_mesh(still).vertices) > 50


def test_confidence_weighs(scene, truth):
    """Half of the frames are a tenth too far: the more confident half has its way."""
    wrong = (np.arange(FRAMES) % 2 == 1)[:, None, None]
    depth = np.where(wrong, 1.1 * scene.depth, scene.depth).astype(np.float32)
    confidence = np.broadcast_to(np.where(wrong, 1.5, 60.0), depth.shape).astype(np.float32)

    def offset(candidate: Scene) -> float:
        fused = fuse(candidate, static_depths(candidate, 3), Resolution(0.12, 0.8), 0.5)
        return float(np.median(truth.distances(fused.vertices)))

    assert offset(replace(scene, depth=depth, confidence=confidence)) < 0.4 * offset(replace(scene, depth=depth))


def test_voxels_grow_with_the_disagreement_of_the_views(scene, truth):
    rough = noisy(scene, 0.03)
    static, before = static_depths(rough, 3), choose_resolution(scene, static_depths(scene, 3))
    after = choose_resolution(rough, static)
    assert disagreement(scene, static_depths(scene, 3)) < 1e-3 < 0.03 < disagreement(rough, static) < 0.2
    assert after.truncation > 1.2 * before.truncation
    assert choose_resolution(rough, static, 0.5).voxel == 0.5
    distances = truth.distances(static_mesh(rough).vertices) / after.voxel
    assert np.median(distances) < 0.4


def test_voxels_grow_where_the_surface_would_be_simplified_anyway(scene):
    static = static_depths(scene, 3)
    fine, coarse = choose_resolution(scene, static, None, 10**6), choose_resolution(scene, static, None, 1500)
    assert fine == choose_resolution(scene, static) and coarse.voxel > 1.5 * fine.voxel
    count = len(fuse(scene, static, coarse, 2.0).triangles)
    assert 750 < count < 6000


def test_a_distorted_grid_gives_the_same_surface(scene, truth):
    """Depth that lies on the pixels of a distorting lens, resampled from the ideal one."""
    lens = (-0.12, 0.02, 0.001, -0.002)
    grid = pixel_grid(HEIGHT, WIDTH)
    ideal = undistort((grid - scene.principal_point) / scene.focals[0], lens) * scene.focals[0] + scene.principal_point
    where = [ideal[..., 1], ideal[..., 0]]
    inverse = [map_coordinates(1 / d, where, order=1, cval=0.0) for d in scene.depth]
    with np.errstate(divide="ignore"):
        depth = np.where(np.array(inverse) > 0, 1 / np.array(inverse), 0).astype(np.float32)
    moving = [map_coordinates(m.astype(float), where, order=1) > 0 for m in scene.dynamic.masks]
    bent = replace(scene, depth=depth, distortion=lens, dynamic=replace(scene.dynamic, masks=np.array(moving)))
    assert np.median(np.abs(distort((ideal - 48) / 90, lens) - (ideal - 48) / 90)) > 0.001
    distances = truth.distances(static_mesh(bent).vertices) / voxel(scene)
    assert np.median(distances) < 0.2 and np.quantile(distances, 0.95) < 1


def test_poisson_closes_holes(scene, mesh):
    centre = mesh.vertices[np.argsort(np.linalg.norm(mesh.vertices - mesh.vertices.mean(0), axis=1))[0]]
    hole = np.linalg.norm(mesh.vertices - centre, axis=1) < 2.5 * voxel(scene)
    open_mesh = canonical(mesh.vertices, mesh.triangles[~hole[mesh.triangles].any(axis=1)], mesh.colors)
    closed = poisson(open_mesh, voxel(scene))

    def gap(candidate: Mesh) -> float:
        return float(np.linalg.norm(candidate.vertices - centre, axis=1).min())

    assert gap(open_mesh) > 2 * voxel(scene) > voxel(scene) > gap(closed)
    assert (closed.triangles.max() < len(closed.vertices)) and len(closed.colors) == len(closed.vertices)


def test_specks_go_and_the_budget_holds(mesh):
    values = [[9, 9, 9], [9, 9, 10], [9, 10, 9]], [[0, 1, 2]], [[1, 2, 3]] * 3, [[0, 0, 1]] * 3
    speck = Mesh(*(np.array(value) for value in values))
    both = canonical(
        np.concatenate([mesh.vertices, speck.vertices]),
        np.concatenate([mesh.triangles, speck.triangles + len(mesh.vertices)]),
        np.concatenate([mesh.colors, speck.colors]).astype(np.uint8),
    )
    assert (both.vertices.max(axis=0) == 10).any()
    clean = without_specks(both, 0.001)
    assert not (clean.vertices == 9).any() and len(clean.triangles) >= 0.9 * len(mesh.triangles)
    assert len(without_specks(speck, 1.0).triangles) == 1
    small = simplified(mesh, 2000)
    assert 1500 < len(small.triangles) <= 2000 and small.normals.shape == small.vertices.shape


def test_the_order_of_a_mesh_is_its_own(mesh):
    rng = np.random.default_rng(0)
    order = rng.permutation(len(mesh.vertices))
    rank = np.argsort(order)
    triangles = np.roll(rank[mesh.triangles], 1, axis=1)[rng.permutation(len(mesh.triangles))]
    shuffled = canonical(mesh.vertices[order], triangles, mesh.colors[order])
    for name in ("vertices", "triangles", "colors", "normals"):
        np.testing.assert_allclose(getattr(shuffled, name), getattr(mesh, name), atol=1e-5)


def test_vertex_normals_against_the_slow_twin(mesh):
    a = canonical(mesh.vertices, mesh.triangles[:300], mesh.colors)
    expected = np.zeros((len(a.vertices), 3))
    for i, j, k in a.triangles:
        face = np.cross(a.vertices[j] - a.vertices[i], a.vertices[k] - a.vertices[i])
        for corner in (i, j, k):
            expected[corner] += face
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vertex_normals(a.vertices, a.triangles), expected, atol=1e-5)


def test_a_dynamic_mesh_is_a_sheet_on_the_mover(scene):
    frame = int(scene.dynamic.coverage.argmax())
    sheet = dynamic_mesh(scene, frame)
    local = transform(np.linalg.inv(scene.T_world_cam[frame]), sheet.vertices.astype(float))
    xy = np.rint(local[:, :2] / local[:, 2:] * scene.focals[frame] + scene.principal_point).astype(int)
    assert scene.dynamic.masks[frame][xy[:, 1], xy[:, 0]].all()
    np.testing.assert_allclose(scene.depth[frame][xy[:, 1], xy[:, 0]], local[:, 2], rtol=1e-5)
    corners = local[sheet.triangles]
    facing_camera = (np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]) * -corners[:, 0]).sum(1)
    assert (facing_camera > 0).all()
    # Cut at depth edges: no triangle is much longer than a pixel's neighbours are apart.
    assert np.ptp(corners[..., 2], axis=1).max() < 0.2 * local[:, 2].max()


def corners(vertices, triangles) -> np.ndarray:
    """(M, 3, ...) values at the corners: what stays when a reader numbers the vertices anew."""
    return np.asarray(vertices)[np.asarray(triangles)]


@pytest.mark.parametrize("suffix", [".ply", ".obj"])
def test_open3d_reads_the_mesh(tmp_path, mesh, suffix):
    read = open3d.io.read_triangle_mesh(str(write_mesh(mesh, tmp_path / f"mesh{suffix}")))
    assert len(read.vertices) == len(mesh.vertices) and len(read.triangles) == len(mesh.triangles)
    for theirs, ours, tolerance in (
        (read.vertices, mesh.vertices, 1e-5),
        (read.vertex_colors, mesh.colors / 255, 1e-4),
        (read.vertex_normals, mesh.normals, 1e-3),
    ):
        np.testing.assert_allclose(corners(theirs, read.triangles), corners(ours, mesh.triangles), atol=tolerance)


def test_the_ply_holds_every_bit_in_the_order_of_the_mesh(tmp_path, mesh):
    content = write_mesh(mesh, tmp_path / "mesh.ply").read_bytes()
    header, body = content.split(b"end_header\n", 1)
    lines = [line.split() for line in header.decode().splitlines()]
    kinds = {"float": "<f4", "uchar": "u1"}
    row = np.dtype([(words[2], kinds[words[1]]) for words in lines if words[0] == "property" and words[1] in kinds])
    vertices = np.frombuffer(body, row, len(mesh.vertices))
    faces = np.frombuffer(body, [("n", "u1"), ("corners", "<i4", 3)], offset=vertices.nbytes)
    for names, expected in (("xyz", mesh.vertices), (["nx", "ny", "nz"], mesh.normals)):
        np.testing.assert_array_equal(np.stack([vertices[name] for name in names], axis=1), expected)
    np.testing.assert_array_equal(np.stack([vertices[c] for c in ("red", "green", "blue")], axis=1), mesh.colors)
    np.testing.assert_array_equal(faces["corners"], mesh.triangles)


def test_the_obj_numbers_its_lines_as_the_mesh_does(tmp_path, mesh):
    lines = [line.split() for line in write_mesh(mesh, tmp_path / "mesh.obj").read_text().splitlines() if line]
    points = np.array([line[1:] for line in lines if line[0] == "v"], dtype=float)
    np.testing.assert_allclose(points, np.hstack([mesh.vertices, mesh.colors / 255]), atol=1e-6)
    np.testing.assert_allclose(
        [[float(x) for x in line[1:]] for line in lines if line[0] == "vn"], mesh.normals, atol=1e-6
    )
    faces = [[int(word.split("//")[0]) for word in line[1:]] for line in lines if line[0] == "f"]
    np.testing.assert_array_equal(faces, mesh.triangles + 1)


def test_a_dark_mesh_keeps_its_colour(tmp_path):
    """Black is a colour, not the absence of one."""
    corner = np.eye(3, dtype=np.float32)
    black = Mesh(corner, np.array([[0, 1, 2]], np.int32), np.zeros((3, 3), np.uint8), corner)
    for suffix in (".ply", ".obj"):
        read = open3d.io.read_triangle_mesh(str(write_mesh(black, tmp_path / f"mesh{suffix}")))
        assert read.has_vertex_colors() and not np.asarray(read.vertex_colors).any()


def test_vertices_at_one_place_stay_apart(tmp_path):
    """With their own colours, as they are at a seam."""
    corner = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]] * 2, dtype=np.float32)
    colors = np.arange(18, dtype=np.uint8).reshape(6, 3)
    seam = Mesh(corner, np.array([[0, 1, 2], [3, 5, 4]], np.int32), colors, np.tile(np.float32([0, 0, 1]), (6, 1)))
    for suffix in (".ply", ".obj"):
        read = open3d.io.read_triangle_mesh(str(write_mesh(seam, tmp_path / f"mesh{suffix}")))
        found = corners(np.rint(np.asarray(read.vertex_colors) * 255), read.triangles)
        np.testing.assert_array_equal(found, corners(colors, seam.triangles))


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path, mesh, monkeypatch):
    path = write_mesh(mesh, tmp_path / "mesh.ply")
    before = path.read_bytes()

    def full(*_args) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("easi3r_ns.storage.files.os.replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        write_mesh(mesh.moved(np.diag([2.0, 2, 2, 1])), path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_open3d_and_trimesh_read_the_glb(tmp_path, mesh):
    """The file stands upright (y up): x, z, -y of what PLY holds. Colours are linear, as glTF wants them."""
    path = write_mesh(mesh, tmp_path / "mesh.glb")
    upright = np.column_stack([mesh.vertices[:, 0], mesh.vertices[:, 2], -mesh.vertices[:, 1]])
    read = open3d.io.read_triangle_mesh(str(path))
    for theirs, ours in ((read.vertices, upright), (read.vertex_colors, srgb_to_linear(mesh.colors))):
        np.testing.assert_allclose(corners(theirs, read.triangles), corners(ours, mesh.triangles), atol=1e-4)
    trimesh = pytest.importorskip("trimesh")
    part = trimesh.load(path).to_geometry()
    np.testing.assert_allclose(corners(part.vertices, part.faces), corners(upright, mesh.triangles), atol=1e-5)


def test_srgb():
    assert srgb_to_linear(np.array([0, 255, 188, 10])) == pytest.approx([0, 1, 0.5029, 0.003035], abs=1e-4)


def test_an_unknown_ending_is_refused(tmp_path, mesh):
    with pytest.raises(InputError, match=r"\.ply, \.obj or \.glb"):
        write_mesh(mesh, tmp_path / "mesh.stl")


def _glb(path: Path) -> tuple[dict, bytes]:
    content = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", content)
    assert (magic, version, length) == (b"glTF", 2, len(content))
    size, kind = struct.unpack_from("<I4s", content, 12)
    assert kind == b"JSON" and size % 4 == 0
    return json.loads(content[20 : 20 + size]), content[28 + size :]


def test_the_scene_glb_holds_cameras_that_look_where_they_should(tmp_path, scene):
    export_scene(scene, tmp_path, ["glb"], ExportConfig(), RunLog())
    document, binary = _glb(tmp_path / "scene.glb")
    assert document["buffers"][0]["byteLength"] <= len(binary)
    names = [node["name"] for node in document["nodes"]]
    assert names[:2] == ["world z up", "static"] and "path" in names
    assert len(document["cameras"]) == FRAMES == sum(name.startswith("frustum") for name in names)
    root = np.array(document["nodes"][0]["matrix"]).reshape(4, 4).T
    np.testing.assert_allclose(root @ [0, 0, 1, 1], [0, 1, 0, 1])  # the dataset's up becomes glTF's up
    for frame in range(FRAMES):
        node = document["nodes"][names.index(f"camera {frame + 1:05d}")]
        pose = np.array(node["matrix"]).reshape(4, 4).T
        expected = Z_UP_FROM_OPENCV_WORLD @ scene.T_world_cam[frame]
        np.testing.assert_allclose(pose[:3, 3], expected[:3, 3])
        np.testing.assert_allclose(-pose[:3, 2], expected[:3, 2], atol=1e-12)  # glTF cameras look along -z
        lens = document["cameras"][node["camera"]]["perspective"]
        assert HEIGHT / 2 / np.tan(lens["yfov"] / 2) == pytest.approx(scene.focals[frame])
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteOffset"] % 4 == 0 and view["byteOffset"] + view["byteLength"] <= len(binary)


def test_normals_of_a_plane():
    rng = np.random.default_rng(0)
    points = np.column_stack([rng.random((200, 2)), np.zeros(200)])
    normals = facing(points, estimate_normals(points), np.array([[0.5, 0.5, -3.0]]))
    np.testing.assert_allclose(normals, np.tile([0, 0, -1], (200, 1)), atol=1e-6)
    assert estimate_normals(points[:2]).shape == (2, 3)


def test_all_formats_of_a_dataset_share_its_world(tmp_path, scene, truth):
    write_dataset(scene, tmp_path / "set", DatasetConfig(num_downscales=0), RunLog())
    meta = json.loads((tmp_path / "set" / "transforms.json").read_text())
    applied = np.eye(4)
    applied[:3] = meta["applied_transform"]
    formats = [name for name in EXPORT_FORMATS if name != "rerun"]
    done = export_scene(scene, tmp_path / "out", formats, ExportConfig(max_points=20_000), RunLog())
    assert list(done) == formats and set(done["mesh"]) == set(MESH_FILES)

    def distance(points) -> np.ndarray:
        return truth.distances(transform(np.linalg.inv(applied), np.asarray(points)))

    cloud = open3d.io.read_point_cloud(str(tmp_path / "out" / "cloud.ply"))
    assert 5000 < len(cloud.points) <= 20_000 and cloud.has_colors() and cloud.has_normals()
    centre = transform(applied, scene.T_world_cam[:, :3, 3]).mean(axis=0)
    assert ((np.asarray(cloud.normals) * (centre - np.asarray(cloud.points))).sum(axis=1) > 0).mean() > 0.97
    assert np.quantile(distance(cloud.points), 0.95) < voxel(scene)
    ply = open3d.io.read_triangle_mesh(str(tmp_path / "out" / "mesh.ply"))
    assert np.quantile(distance(ply.vertices), 0.95) < voxel(scene)
    for name in done["dynamic-mesh"]:
        sheet = np.asarray(open3d.io.read_triangle_mesh(str(tmp_path / "out" / name)).vertices)
        assert truth.moving.query(transform(np.linalg.inv(applied), sheet))[0].max() < 0.2
    assert len([name for name in done["cloud"] if name.startswith("dynamic/")]) == FRAMES


@pytest.mark.slow
def test_twice_gives_identical_bytes_and_the_scene_is_only_read(tmp_path, scene):
    before = {name: getattr(scene, name).tobytes() for name in ("images", "depth", "T_world_cam", "confidence")}
    for array in (scene.images, scene.depth, scene.T_world_cam, scene.confidence, scene.dynamic.masks):
        array.setflags(write=False)
    formats = [name for name in EXPORT_FORMATS if name != "rerun"]
    poissoned = MeshConfig(method="poisson", voxel_size=0.15, max_triangles=5000)
    contents = []
    for _ in range(2):
        done = export_scene(scene, tmp_path / "out", formats, ExportConfig(), RunLog(), mesh=poissoned, overwrite=True)
        contents.append({name: (tmp_path / "out" / name).read_bytes() for files in done.values() for name in files})
    assert contents[0] == contents[1] and len(contents[0]) > 30
    assert before == {name: getattr(scene, name).tobytes() for name in before}


def test_what_is_there_is_refused_and_what_is_not_ours_stays(tmp_path, scene):
    export_scene(scene, tmp_path, ["tum", "dynamic-mesh"], ExportConfig(), RunLog())
    with pytest.raises(OutputError, match="already holds an export as tum"):
        export_scene(scene, tmp_path, ["tum"], ExportConfig(), RunLog())
    (tmp_path / "cloud.ply").write_text("mine")
    with pytest.raises(OutputError, match="cloud.ply is in the way"):
        export_scene(scene, tmp_path, ["cloud"], ExportConfig(), RunLog(), overwrite=True)
    assert (tmp_path / "cloud.ply").read_text() == "mine"
    # A later scene in which less moves leaves no sheets of the earlier one, and touches no other format.
    still = replace(scene, dynamic=replace(scene.dynamic, masks=np.zeros_like(scene.dynamic.masks)))
    done = export_scene(still, tmp_path, ["dynamic-mesh"], ExportConfig(), RunLog(), overwrite=True)
    assert done == {"dynamic-mesh": []} and not list(tmp_path.glob("dynamic_mesh/*"))
    assert (tmp_path / "trajectory_tum.txt").exists()


def test_a_scene_without_depth_says_what_it_cannot_give(tmp_path, scene):
    from easi3r_ns.core.scene import SparsePoints

    rng = np.random.default_rng(0)
    sparse = SparsePoints(
        rng.standard_normal((99, 3)) + [0, 0, 4],
        np.full((99, 3), 9, np.uint8),
        np.ones(99),
        np.arange(99),
        np.arange(99) % FRAMES,
        rng.random((99, 2)) * 50,
    )
    nothing = np.zeros_like(scene.depth)
    bare = replace(scene, depth=nothing, confidence=nothing, sparse=sparse)
    for name in ("mesh", "dynamic-mesh"):
        with pytest.raises(InputError, match="no depth"):
            export_scene(bare, tmp_path, [name], ExportConfig(), RunLog())
    done = export_scene(bare, tmp_path, ["cloud", "colmap", "tum", "glb"], ExportConfig(), RunLog())
    assert done["cloud"] == ["cloud.ply"]
    assert len(open3d.io.read_point_cloud(str(tmp_path / "cloud.ply")).points) == 99
    assert _glb(tmp_path / "scene.glb")[0]["meshes"][0]["primitives"][0]["mode"] == 0


def test_nothing_static_is_told(scene):
    moving = replace(scene, dynamic=replace(scene.dynamic, masks=np.ones_like(scene.dynamic.masks)))
    with pytest.raises(InputError, match="no pixel is static"):
        static_mesh(moving)
    diagonal = pixel_grid(HEIGHT, WIDTH).sum(axis=-1)
    seen_once = [np.where(diagonal == 90 + f, depth, 0) for f, depth in enumerate(static_depths(scene, 3))]
    with pytest.raises(InputError, match="lower --mesh.min-views"):
        fuse(scene, seen_once, Resolution(0.01, 0.04), 1000)


@pytest.mark.parametrize("formats", [[], ["mesh", "stl"]])
def test_unknown_formats_are_refused(tmp_path, scene, formats):
    with pytest.raises(InputError, match="choose from mesh"):
        export_scene(scene, tmp_path, formats, ExportConfig(), RunLog())


@pytest.mark.parametrize(
    "options", [{"voxel_size": 0.0}, {"max_triangles": 3}, {"min_component": 1.5}, {"min_views": float("nan")}]
)
def test_impossible_options_are_refused(options):
    with pytest.raises(InputError, match="--mesh."):
        MeshConfig(**options)


def test_rerun_reads_its_recording(tmp_path, scene):
    pytest.importorskip("rerun")
    import rerun.dataframe as frames

    done = export_scene(scene, tmp_path, ["rerun"], ExportConfig(max_points=1000), RunLog())
    assert done == {"rerun": ["scene.rrd"]}
    recording = frames.load_recording(str(tmp_path / "scene.rrd"))
    columns = {str(column.entity_path) for column in recording.schema().component_columns()}
    assert {"/world/static", "/world/moving", "/world/camera", "/world/camera/image"} <= columns
    view = recording.view(index="clip", contents="/world/camera")
    times = view.select().read_all().column("clip").to_pylist()
    assert len(times) == FRAMES
    still = ~scene.dynamic.masks
    assumed = replace(scene, depth=scene.depth * still, assumed_depth=np.where(still, 0, np.float32(2)))
    export_scene(assumed, tmp_path / "assumed", ["rerun"], ExportConfig(max_points=1000), RunLog())
    recording = frames.load_recording(str(tmp_path / "assumed" / "scene.rrd"))
    columns = {str(column.entity_path) for column in recording.schema().component_columns()}
    assert "/world/moving_assumed" in columns and "/world/moving" not in columns


def test_voxels_that_no_machine_holds_are_refused_with_a_size_that_it_does(scene):
    static = static_depths(scene, 3)
    for tiny in (1e-300, 1e-4):
        with pytest.raises(InputError, match=r"^--mesh.voxel-size .* give at least [\d.]+ \(the default") as caught:
            choose_resolution(scene, static, tiny)
    least = float(str(caught.value).split("at least ")[1].split(" ")[0])
    assert choose_resolution(scene, static, 1.1 * least).voxel == 1.1 * least
    assert least < choose_resolution(scene, static).voxel
