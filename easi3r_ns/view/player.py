"""The 4D viewer in a browser: a viser server with its panel, playback and recording."""

from __future__ import annotations

import contextlib
import io
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.scene import Scene
from .cameras import ASPECT, FOV_DEGREES, Viewpoint, camera_track, thumbnails
from .clouds import Clouds
from .config import TurntableConfig, ViewConfig
from .look import Painter, first_look
from .nodes import SceneNodes
from .panel import Panel, panel_title
from .server import LOOPBACK, PORT, free_port, serve, url_of
from .turntable import num_turntable_frames, turntable_frames, write_turntable

if TYPE_CHECKING:
    import viser

_QUIET_SECONDS = 0.25
"""Time without a change of the panel after which hidden nodes are sent."""
_PORTION = 8
"""Hidden nodes that are sent before the panel is read again, so that it stays responsive."""


class Player:
    """A running viewer of one scene."""

    def __init__(
        self, scene: Scene, clouds: Clouds, config: ViewConfig, *, host: str = LOOPBACK, port: int = PORT
    ) -> None:
        """Start the server and send what is visible at first; the rest follows in the background.

        Raises InputError for an impossible ``host`` or ``port``, MissingExtraError when viser does not load.
        """
        self.host, self.port = host, free_port(host, port)
        self._painter, self._track = Painter.of(clouds), camera_track(scene)
        self._images = lru_cache(maxsize=2)(lambda masks: thumbnails(scene, masks))
        self._server = serve(host, self.port)
        self._server.gui.configure_theme(control_layout="collapsible", show_logo=False)
        look = first_look(clouds, config)
        title = panel_title(self._track, self._painter)
        self._panel = Panel(self._server.gui, self._painter, look, scene.times, title)
        self._nodes = SceneNodes(self._server.scene, self._painter, self._track, self._images)
        self._changed, self._playing, self._stopped = threading.Event(), threading.Event(), threading.Event()
        self._recording, self._stepping = threading.Lock(), threading.Lock()
        self._nodes.show(self._panel.look())
        self._connect_inputs()
        for work in (self._refresh, self._play):
            threading.Thread(target=work, daemon=True).start()
        self._changed.set()

    @property
    def url(self) -> str:
        """Where a browser on this machine finds the viewer."""
        return url_of(self.host, self.port)

    def stop(self) -> None:
        """End playback and server."""
        self._stopped.set()
        self._changed.set()
        self._playing.set()
        with contextlib.redirect_stdout(io.StringIO()):
            self._server.stop()

    def _connect_inputs(self) -> None:
        panel = self._panel
        for handle in panel.inputs:
            handle.on_update(lambda _: self._changed.set())
        panel.play.on_click(lambda _: self._set_playing(True))
        panel.pause.on_click(lambda _: self._set_playing(False))
        panel.step_in.on_click(lambda event: self._step_in(event.client))
        panel.home.on_click(lambda event: _look_from(event.client, self._track.home))
        panel.record.on_click(lambda event: self._record(event.client))
        self._server.on_client_connect(lambda client: _look_from(client, self._track.home))

    def _set_playing(self, on: bool) -> None:
        with self._stepping:  # a step that is under way ends before the pause
            (self._playing.set if on else self._playing.clear)()
        self._panel.play.visible, self._panel.pause.visible = not on, on

    def _refresh(self) -> None:
        """Show the newest settings; older ones that were not yet sent are skipped, so that a slider causes no queue."""
        behind = True
        while not self._stopped.is_set():
            if self._changed.wait(_QUIET_SECONDS if behind else None):
                self._changed.clear()
                if self._stopped.is_set():
                    return
                with self._server.atomic():
                    self._nodes.show(self._panel.look())
                behind = True
            else:
                behind = self._nodes.catch_up(self._panel.look(), _PORTION)

    def _play(self) -> None:
        while self._playing.wait() and not self._stopped.is_set():
            with self._stepping:
                if self._playing.is_set():
                    self._panel.frame.value = (int(self._panel.frame.value) + 1) % len(self._track)
            self._stopped.wait(1 / max(float(self._panel.speed.value), 0.1))

    def _step_in(self, client: viser.ClientHandle) -> None:
        from viser.transforms import SO3

        frame = self._panel.look().frame
        T = self._track.T_world_cam[frame]
        with client.atomic():
            client.camera.wxyz = SO3.from_matrix(T[:3, :3]).wxyz
            client.camera.position = T[:3, 3]
            client.camera.fov = float(self._track.fov_y[frame])

    def _record(self, client: viser.ClientHandle) -> None:
        if not self._recording.acquire(blocking=False):
            return
        self._panel.record.disabled = True
        note = client.add_notification("Turntable", "rendering ...", loading=True, with_close_button=False)
        try:
            content = self._render(client, lambda share: setattr(note, "body", f"rendering ... {share:.0%}"))
            client.send_file_download("turntable.mp4", content)
            note.title, note.body, note.auto_close = "Turntable", "turntable.mp4 is in your downloads", 5000
        except Exception:
            note.body = "recording failed: see the terminal"
            raise
        finally:
            note.loading, note.with_close_button = False, True
            self._panel.record.disabled = False
            self._recording.release()

    def _render(self, client: viser.ClientHandle, progress: Callable[[float], None]) -> bytes:
        look, camera = self._panel.look(), client.camera
        home = Viewpoint(np.array(camera.position, dtype=float), np.array(camera.look_at, dtype=float))
        config = TurntableConfig(seconds=float(self._panel.seconds.value), arc=float(self._panel.arc.value))
        frames = turntable_frames(self._painter, self._track, self._images(look.masks), look, config, home)
        done, total = 0, num_turntable_frames(config)

        def advance(steps: int) -> None:
            nonlocal done
            done += steps
            if done % config.fps == 0:
                progress(done / total)

        with tempfile.TemporaryDirectory() as folder:
            return write_turntable(Path(folder) / "turntable.mp4", frames, config, advance).read_bytes()


def _look_from(client: viser.ClientHandle, view: Viewpoint) -> None:
    """Move a browser's camera; further back where its window is narrower than :data:`ASPECT`, for which ``view`` is."""
    back = max(1.0, ASPECT / max(float(client.camera.aspect), 0.3))
    with client.atomic():
        client.camera.up_direction = (0.0, 0.0, 1.0)
        client.camera.position = view.look_at + back * (view.position - view.look_at)
        client.camera.look_at = view.look_at
        client.camera.fov = float(np.radians(FOV_DEGREES))
