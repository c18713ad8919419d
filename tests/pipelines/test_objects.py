"""Objects and ``--mask-scope`` at the end of a run: what a finished scene gets from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from easi3r_ns.core.config import Easi3RConfig
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.scene import Scene, SparsePoints, what_frames_show
from easi3r_ns.core.types import DynamicMasks, Frames
from easi3r_ns.pipelines.objects import in_scope, with_objects
from easi3r_ns.report.measures import measure
from easi3r_ns.report.sections.motion import motion_section
from tests.motion.test_scope import stop_and_go
from tests.support.dataset_scene import make_scene
from tests.support.helpers import Lines


def finished(folder: Path) -> tuple[Scene, Frames, np.ndarray]:
    """A scene that shows a square which stands, goes and stands; its frames; and where the square is."""
    images, truth, masks = stop_and_go()
    scene = make_scene(folder, (320, 180), len(images))[0]
    assert scene.images.shape == images.shape
    y, x = np.argwhere(truth[0]).mean(axis=0)
    at = np.array([[x, y], [4.0, 60.0]]) * 2.5
    sparse = SparsePoints(
        points=np.zeros((2, 3)),
        colors=np.zeros((2, 3), np.uint8),
        errors=np.zeros(2),
        point_index=np.repeat([0, 1], 4),
        frame_index=np.tile(np.arange(4), 2),
        pixels=np.repeat(at, 4, axis=0),
    )
    scene = replace(scene, images=images, dynamic=DynamicMasks(masks, np.zeros((24, 9, 16), np.float32), 0.5))
    scene = replace(scene, sparse=sparse, assumed_depth=None)
    return scene, Frames(**what_frames_show(scene), num_source_frames=len(scene)), truth


def test_scope_and_objects_of_a_finished_scene(tmp_path: Path) -> None:
    scene, frames, truth = finished(tmp_path)
    assert in_scope(scene, frames, Easi3RConfig(), RunLog()) is scene
    log = Lines()
    wide = in_scope(scene, frames, Easi3RConfig(mask_scope="ever"), log)
    assert (wide.dynamic.masks & truth).sum() > 0.9 * truth.sum()
    assert wide.provenance["mask_scope"]["added"] > 0.05 and any("--mask-scope ever" in line for line in log.said)
    assert wide.sparse is not None and scene.sparse is not None
    assert len(wide.sparse) == 1 and len(scene.sparse) == 2
    assert "--mask-scope ever" in motion_section(wide, measure(wide)).lead
    told = with_objects(wide, frames, log)
    assert told.dynamic.objects is not None and told.dynamic.objects.max() == 1
    (fact,) = told.provenance["objects"]
    assert (fact["first"], fact["last"], fact["frames"]) == (0, 23, 24)
    nothing = replace(scene, dynamic=replace(scene.dynamic, masks=np.zeros_like(truth)))
    assert with_objects(nothing, frames, log).provenance["objects"] == []
