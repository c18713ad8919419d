"""`easi3r view`: show a scene in a browser or in Open3D's window, or write a turntable video of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import tyro

from ..core.bounds import check_bounds
from ..core.errors import InputError, OutputError
from ..view.config import TurntableConfig, ViewConfig

if TYPE_CHECKING:
    from ..core.runlog import RunLog
    from ..core.scene import Scene
    from ..view.clouds import Clouds

MESHES = ("export/mesh.ply", "export/mesh.obj", "mesh.ply", "mesh.obj")
"""Files of a dataset in which --open3d looks for a mesh; it shows the first that exists."""


@dataclass(frozen=True)
class ViewScene:
    """Show a scene in 4D: playback over time, orbit, sliders for confidence, point size and trails.

    Serves a page for a browser on this machine; Ctrl-C ends it.
    """

    path: tyro.conf.Positional[Path]
    """The --output-dir of a run, its transforms.json, or a scene folder."""
    host: str = "127.0.0.1"
    """Address to serve at. Only this machine can reach the default; 0.0.0.0 admits everybody in the network."""
    port: int = 8080
    """Port to serve at; if it is in use, the next free port above it is taken."""
    open3d: tyro.conf.FlagCreatePairsOff[bool] = False
    """Show clouds, cameras and the exported mesh in Open3D's window instead of a browser."""
    turntable: Optional[Path] = None
    """Write a video (.mp4) by a camera that orbits the scene while the clip plays, instead of serving a page."""
    orbit: TurntableConfig = field(default_factory=TurntableConfig)
    view: tyro.conf.OmitArgPrefixes[ViewConfig] = field(default_factory=ViewConfig)

    def __post_init__(self) -> None:
        check_bounds("--port", self.port, 0, 65535)

    def main(self) -> None:
        """Show the scene until the user closes it, or write the video.

        Raises:
            InputError: there is no scene at ``path``, the options contradict each other, or there is no display.
            MissingExtraError: Open3D does not load, for its window.
            OutputError: the video cannot be written.
        """
        from ..dataset.scene_folder import find_scene
        from ..view.clouds import build_clouds
        from .display import RichRunLog

        if self.open3d and self.turntable is not None:
            raise InputError("--open3d and --turntable contradict each other: give one of them")
        if self.turntable is not None and self.turntable.suffix.lower() != ".mp4":
            raise InputError(f"--turntable {self.turntable}: give a file name that ends in .mp4")
        if self.open3d:
            from ..view.window import require_window

            require_window()
        log = RichRunLog()
        scene = find_scene(self.path)
        with log.stage("points", len(scene)) as advance:
            clouds = build_clouds(scene, self.view, advance)
        say_what_is_missing(scene, clouds, log)
        if self.turntable is not None:
            self._record(scene, clouds, self.turntable, log)
        elif self.open3d:
            self._open_window(scene, clouds, log)
        else:
            self._serve(scene, clouds, log)

    def _serve(self, scene: Scene, clouds: Clouds, log: RunLog) -> None:
        from ..view.player import Player

        player = Player(scene, clouds, self.view, host=self.host, port=self.port)
        try:
            if player.port != self.port:
                log.info(f"port {self.port} is in use; using {player.port}")
            if self.host not in ("127.0.0.1", "localhost", "::1"):
                log.warn(
                    f"everybody who can reach {self.host}:{player.port} can see this scene; --host 127.0.0.1 admits "
                    "this machine only"
                )
            log.info(f"open {player.url} in a browser; Ctrl-C ends the viewer")
            threading.Event().wait()
        except KeyboardInterrupt:
            log.info("closed")
        finally:
            player.stop()

    def _open_window(self, scene: Scene, clouds: Clouds, log: RunLog) -> None:
        from ..view.cameras import camera_track
        from ..view.look import Painter, first_look
        from ..view.window import KEYS, open_window

        meshes = exported_meshes(self.path)[:1]
        log.info(KEYS)
        open_window(Painter.of(clouds), camera_track(scene), first_look(clouds, self.view), meshes)

    def _record(self, scene: Scene, clouds: Clouds, path: Path, log: RunLog) -> None:
        from ..view.cameras import camera_track, thumbnails
        from ..view.look import Painter, first_look
        from ..view.turntable import num_turntable_frames, turntable_frames, write_turntable

        if path.is_dir():
            raise OutputError(f"--turntable {path} is a folder: give the name of an .mp4 file")
        look = first_look(clouds, self.view)
        images = thumbnails(scene, masks=look.masks)
        frames = turntable_frames(Painter.of(clouds), camera_track(scene), images, look, self.orbit)
        with log.stage("turntable", num_turntable_frames(self.orbit)) as advance:
            write_turntable(path, frames, self.orbit, advance)
        log.info(f"wrote {path}")


def exported_meshes(path: Path) -> list[Path]:
    """Existing files of :data:`MESHES` in a dataset.

    Args:
        path: the dataset, its scene folder, or a file in one of them.
    """
    from ..dataset.scene_folder import dataset_folder

    dataset = dataset_folder(path)
    return [dataset / name for name in MESHES if (dataset / name).is_file()]


def say_what_is_missing(scene: Scene, clouds: Clouds, log: RunLog) -> None:
    """Warn if the viewer has less to show than a user would expect, and say what it shows that was not measured."""
    from ..core.scene import ASSUMED

    if not scene.has_depth:
        if len(clouds.static):
            log.warn("the scene has no depth: its triangulated points and its cameras are shown, nothing that moves")
        else:
            log.warn("the scene has neither depth nor triangulated points: only its cameras are shown")
    elif not clouds.num_points:
        log.warn(
            f"no pixel reaches the confidence {scene.min_confidence:g}: only the cameras are shown; run again with a "
            "lower --min-confidence (1 keeps all pixels)"
        )
    elif not scene.dynamic.masks.any():
        log.warn(f"nothing moves in this scene (masks: {scene.dynamic.source}): it looks the same at all times")
    elif not any(len(cloud) for cloud in clouds.moving):
        log.warn("nothing that moves has a trusted depth: only the static points are shown")
    elif clouds.assumed:
        log.info(ASSUMED)
    if len(scene) == 1:
        log.warn("the scene has a single frame: there is nothing to play")
