"""What is made better on top of somebody's cameras: the options, and what changed, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class ImproveConfig:
    """What of the folder may change."""

    refine: Literal["none", "colmap"] = "none"
    """none: the cameras stay as they were given. colmap: bundle adjustment on static tracks that starts from them, and
    mapping from scratch; the cameras that explain held-out matches best are kept, so that they may still be those that
    were given."""
    features: Literal["sift", "aliked"] = "sift"
    """Keypoints and matches for --refine colmap, as for `easi3r run`."""
    keep_masks: bool = False
    """Masks of the folder stay as they are. Default: they are a first look, which is corrected by the flow that cameras
    and depth do not predict, where these explain what stands still."""


def change_lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """``provenance["improved"]`` of a scene as lines (name, words)."""
    return [
        ("cameras", cameras_in_words(facts["cameras"])),
        ("masks", masks_in_words(facts["masks"])),
        ("depth", depth_in_words(facts["depth"])),
    ]


def cameras_in_words(facts: dict[str, Any]) -> str:
    """What became of the cameras."""
    if facts["kept"]:
        why = f": {facts['why']}" if facts["why"] else ""
        return f"kept as they were given{why}"
    moved = "" if facts["moved_most"] is None else f"moved by up to {100 * facts['moved_most']:.2g} % of the path, "
    return (
        f"changed by --refine ({facts['by']}): {moved}turned by up to {facts['turned_deg']:.2g} degrees, focal length "
        f"{100 * facts['focal']:+.2g} %"
    )


def masks_in_words(facts: dict[str, Any]) -> str:
    """What became of the masks."""
    share = f"{100 * facts['share']:.1f} % of the picture"
    if facts["given"] is None:
        return f"found, as there were none: {share}"
    if not facts["added"] and not facts["taken"]:
        return f"kept: {share}"
    return (
        f"changed from {100 * facts['given']:.1f} % to {share}: {100 * facts['added']:.1f} % added, "
        f"{100 * facts['taken']:.1f} % taken out"
    )


def depth_in_words(facts: dict[str, Any]) -> str:
    """What became of the depth."""
    known = f"{100 * facts['share']:.0f} % of the pixels"
    filled = f"; filled by {facts['prior']}" if facts["prior"] else ""
    if facts["given"] is not None:
        fitted = ", fitted to the new cameras" if facts["fitted"] else ""
        return f"theirs kept{fitted} ({100 * facts['given']:.0f} % before, {known} now){filled}"
    if facts["stereo"]:
        return f"measured by stereo: {known}{filled}"
    return f"{known}{filled}" if facts["prior"] else "none (--refine colmap finds points to begin with)"
