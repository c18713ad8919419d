"""`easi3r edit`: correct the motion masks of a dataset in a browser, and solve again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import tyro

from ..core.bounds import check_bounds

if TYPE_CHECKING:
    from ..core.scene import Scene
    from ..edit.server import EditServer


@dataclass(frozen=True)
class Edit:
    """Correct by hand what moves in a dataset, exclude frames, and solve again, in a browser on this machine.

    Corrections are saved at every click, beside the dataset. Ctrl-C ends it.
    """

    path: tyro.conf.Positional[Path]
    """The --output-dir of a run."""
    port: int = 8090
    """Port to serve at, for this machine only; if it is in use, the next free port above it is taken."""

    data: Optional[Path] = None
    """The clip, for solving again, where it lies elsewhere now."""

    def __post_init__(self) -> None:
        check_bounds("--port", self.port, 0, 65535)

    def main(self) -> None:
        """Serve the page until the user ends it.

        Raises:
            InputError: there is no dataset at ``path``, or its corrections cannot be read.
        """
        from .display import RichRunLog

        log = RichRunLog()
        server = open_server(self.path, self.port, self.data)
        try:
            server.begin()
            if server.server_address[1] != self.port and self.port:
                log.info(f"port {self.port} is in use; using {server.server_address[1]}")
            log.info(f"open {server.url} in a browser; Ctrl-C ends the editor")
            threading.Event().wait()
        except KeyboardInterrupt:
            log.info("closed; every change was saved")
        finally:
            server.shutdown()
            server.server_close()


def open_server(path: Path, port: int, data: Optional[Path] = None) -> EditServer:
    """The server of the page for a dataset; it does not answer yet.

    Raises:
        InputError: there is no dataset at ``path``, or its corrections cannot be read.
    """
    from ..dataset.scene_folder import dataset_folder, find_scene
    from ..edit.desk import Desk, Helpers
    from ..edit.following import follower
    from ..edit.found import keep_found, kept_found
    from ..edit.server import LOOPBACK, EditServer
    from ..edit.session import Session
    from ..edit.store import FolderStore
    from ..edit.verdict import verdict_of
    from ..pipelines.again import finish_accept
    from ..pipelines.by_hand import made_with
    from ..pipelines.run import WORKSPACE
    from ..view.server import free_port
    from .solving import FolderRemake, why_not_again

    dataset = dataset_folder(path)
    if dataset.is_dir():
        finish_accept(dataset)
    scene = find_scene(path)
    why_not = why_not_again(scene, dataset)

    def open_session(scene: Scene) -> Session:
        kept = dataset / WORKSPACE
        if made_with(dataset) is None:
            keep_found(kept, scene)
            return Session(scene, FolderStore(dataset, scene), dataset)
        return Session(scene, FolderStore(dataset, scene), dataset, kept_found(kept, scene))

    helpers = Helpers(
        open_session=open_session,
        follow=follower,
        remake=None if why_not else FolderRemake(dataset, data),
        why_not=why_not,
        verdict=lambda scene: verdict_of(scene, dataset),
    )
    return EditServer(Desk(scene, helpers), free_port(LOOPBACK, port))
