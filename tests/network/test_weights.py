"""Weights: published names and shapes, safe reading, loading in parts, errors that say what to do."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from easi3r_ns.core.errors import CheckpointError
from easi3r_ns.core.runlog import RunLog
from easi3r_ns.core.score import ScoreFormula
from easi3r_ns.network import checkpoint, sources, weights
from easi3r_ns.network.config import DUSt3RConfig
from easi3r_ns.network.hub import Repository
from easi3r_ns.network.model import DUSt3R

ROOT = Path(__file__).parents[2]
MANIFEST = json.loads((Path(__file__).parents[1] / "golden" / "state_dict_keys_512_dpt.json").read_text())
SMALL = dict(enc_embed_dim=32, enc_depth=2, enc_num_heads=4, dec_embed_dim=32, dec_depth=4, dec_num_heads=4)
SMALL_CONFIG = DUSt3RConfig(
    **SMALL, image_size=64, head_type="dpt", dpt_feature_dim=8, dpt_last_dim=8, dpt_layer_dims=(4, 4, 8, 8)
)
PUBLISHED = {
    **SMALL,
    "img_size": [64, 48],
    "patch_size": 16,
    "mlp_ratio": 4,
    "pos_embed": "RoPE100",
    "norm_im2_in_dec": True,
    "head_type": "dpt",
    "output_mode": "pts3d",
    "depth_mode": ["exp", -math.inf, math.inf],
    "conf_mode": "('exp', 1, inf)",
    "landscape_only": True,
    "freeze": "none",
    "patch_embed_cls": "ManyAR_PatchEmbed",
    "_dpt_head_overrides": {"feature_dim": 8, "last_dim": 8, "layer_dims": [4, 4, 8, 8]},
}
MODEL_TEXT = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', patch_embed_cls='PatchEmbedDust3R', img_size=(224, 224), "
    "head_type='linear', output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), patch_size=8, "
    "enc_embed_dim=32, enc_depth=2, enc_num_heads=4, dec_embed_dim=32, dec_depth=4, dec_num_heads=4)"
)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in DUSt3R(SMALL_CONFIG).state_dict().items()}


@pytest.fixture
def folder(tmp_path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    return tmp_path


needs_safe_pth = pytest.mark.skipif(
    not hasattr(torch.serialization, "safe_globals"), reason="older torch reads no .pth safely, see checkpoint.py"
)


def save_pth(path: Path, state: dict[str, torch.Tensor], text: str = MODEL_TEXT) -> Path:
    torch.save({"args": argparse.Namespace(model=text, lr=1e-4), "model": state}, path)
    return path


# --- names and shapes of the published checkpoints ---------------------------------------------------------------


@pytest.mark.parametrize(("family", "head"), [("512_dpt", "dpt"), ("224_linear", "linear")])
def test_network_matches_published_manifest(family: str, head: str) -> None:
    published = {name: tuple(shape) for name, shape in MANIFEST[family]["keys"].items()}
    assert len(published) == {"512_dpt": 1009, "224_linear": 877}[family]
    with torch.device("meta"):
        model = DUSt3R(DUSt3RConfig(head_type=head))
    ours = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    table, tied = checkpoint.normalise_names(published)
    assert {name: published[inside] for name, inside in table.items()} == ours
    assert {frozenset(pair) for pair in tied} == {
        frozenset(pair) for pair in MANIFEST[family]["tied_alias_to_first"].items()
    }
    used = {inside for inside in table.values()} | {name for pair in tied for name in pair}
    assert set(published) - used == {"mask_token"}
    unique = sum(math.prod(shape) for shape in ours.values()) + math.prod(published["mask_token"])
    assert unique == MANIFEST[family]["n_param_elements_unique"]


@pytest.mark.parametrize("dropped", ["layer_rn", "layer{}_rn"])
def test_either_name_of_a_tied_weight_may_be_missing(dropped: str) -> None:
    keys = MANIFEST["512_dpt"]["keys"]
    aliases = MANIFEST["512_dpt"]["tied_alias_to_first"]
    gone = set(aliases) if dropped == "layer_rn" else set(aliases.values())
    full, _ = checkpoint.normalise_names(keys)
    table, tied = checkpoint.normalise_names([name for name in keys if name not in gone])
    assert set(table) == set(full) and not tied


def test_one_decoder_serves_both_where_the_second_is_absent(state: dict[str, torch.Tensor]) -> None:
    table, _ = checkpoint.normalise_names([name for name in state if not name.startswith("dec_blocks2.")])
    assert set(table) == set(state)
    assert table["dec_blocks2.0.attn.qkv.weight"] == "dec_blocks.0.attn.qkv.weight"


def test_names_without_use_are_dropped() -> None:
    names = ["mask_token", "prediction_head.weight", "downstream_head1.dpt.act_2_postprocess.0.weight", "enc_norm.bias"]
    assert checkpoint.normalise_names(names) == ({"enc_norm.bias": "enc_norm.bias"}, [])


# --- architecture ------------------------------------------------------------------------------------------------


def test_published_config_json(folder: Path) -> None:
    assert weights.read_config(sources.resolve(str(folder))) == SMALL_CONFIG


@pytest.mark.parametrize("mode", [["exp", 1, math.inf], ["exp", 1, "inf"], ["exp", 1.0, "Infinity"], "('exp', 1, inf)"])
def test_every_spelling_of_infinity(mode: object) -> None:
    assert checkpoint.config_from_fields({**PUBLISHED, "conf_mode": mode}, "x") == SMALL_CONFIG


def test_own_config_round_trip() -> None:
    fields = json.loads(json.dumps(vars(SMALL_CONFIG)))
    assert checkpoint.config_from_fields(fields, "x") == SMALL_CONFIG


@needs_safe_pth
def test_config_from_pth_text(tmp_path: Path) -> None:
    config = weights.read_config(sources.resolve(str(save_pth(tmp_path / "a.pth", {}))))
    assert config == DUSt3RConfig(**SMALL, patch_size=8, head_type="linear", image_size=224, square=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pos_embed", "cosine"),
        ("output_mode", "pts3d+desc24"),
        ("conf_mode", ["exp", 0, math.inf]),
        ("depth_mode", ["linear", -math.inf, math.inf]),
        ("head_type", "catmlp+dpt"),
        ("norm_im2_in_dec", False),
        ("patch_embed_cls", "Other"),
        ("patch_size", "16"),
        ("enc_depth", 0),
        ("img_size", "big"),
        ("conf_mode", "('exp', open('x'), inf)"),
    ],
)
def test_unsupported_values_are_named(field: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{field}|literal"):
        checkpoint.config_from_fields({**PUBLISHED, field: value}, "config.json")


def test_sizes_that_the_network_cannot_have(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({**PUBLISHED, "patch_size": 8}))
    with pytest.raises(CheckpointError, match="patch_size 8"):
        weights.build_backbone(str(folder))


def test_missing_position_embedding_means_the_published_default() -> None:
    fields = {name: value for name, value in PUBLISHED.items() if name != "pos_embed"}
    with pytest.raises(CheckpointError, match="pos_embed = 'cosine'"):
        checkpoint.config_from_fields(fields, "config.json")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch {marker}')",
        "AsymmetricCroCo3DStereo(img_size=__import__('os').system('touch {marker}'))",
        "AsymmetricCroCo3DStereo(**{{}})",
        "AsymmetricCroCo3DStereo(512)",
        "AsymmetricCroCo3DStereo(",
        "AsymmetricMASt3R(pos_embed='RoPE100')",
        "-" * 100_000 + "1",
    ],
)
def test_constructor_text_is_never_evaluated(text: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(CheckpointError):
        checkpoint.parse_constructor(text.format(marker=marker), "a.pth")
    assert not marker.exists()


# --- safe reading ------------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.marker),)


@needs_safe_pth
@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("key", ["args", "model"])
def test_malicious_pickle_is_refused(tmp_path: Path, key: str, archive: bool) -> None:
    marker = tmp_path / "executed"
    content = {"args": argparse.Namespace(model=MODEL_TEXT), "model": {}, key: Hostile(marker)}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    with pytest.raises(CheckpointError, match="nothing in it was executed"):
        weights.describe(sources.resolve(str(tmp_path / "a.pth")))
    assert not marker.exists()
    # The same file does run code in an unrestricted unpickler: the test can fail.
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert marker.exists()


def test_plain_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Hostile(tmp_path / "executed")))
    with pytest.raises(CheckpointError):
        weights.describe(sources.resolve(str(tmp_path / "a.pth")))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("damage", ["empty", "short", "noise"])
def test_damaged_file(folder: Path, state: dict[str, torch.Tensor], suffix: str, damage: str) -> None:
    path = folder / "model.safetensors"
    if suffix == ".pth":
        path = save_pth(folder / "a.pth", state)
    content = path.read_bytes()
    path.write_bytes({"empty": b"", "short": content[: len(content) // 2], "noise": b"noise" * 1000}[damage])
    with pytest.raises(CheckpointError, match=path.name):
        weights.describe(sources.resolve(str(path)))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_not_finite_weights(folder: Path, state: dict[str, torch.Tensor], value: float) -> None:
    state["dec_norm.weight"][3] = value
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="dec_norm.weight"):
        weights.load_backbone(str(folder))


def test_keys_that_do_not_fit_are_listed(folder: Path, state: dict[str, torch.Tensor]) -> None:
    del state["enc_norm.bias"]
    state["adapter.weight"] = torch.zeros(3)
    state["dec_norm.weight"] = torch.zeros(7)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        weights.load_backbone(str(folder))
    for text in (
        "missing 1 keys (enc_norm.bias)",
        "unknown 1 keys (adapter.weight)",
        "dec_norm.weight (7,) instead of (32,)",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize("equal", [True, False])
def test_tied_weights_must_agree(folder: Path, state: dict[str, torch.Tensor], equal: bool) -> None:
    kept = "downstream_head2.dpt.scratch.layer3_rn.weight"
    state["downstream_head2.dpt.scratch.layer_rn.2.weight"] = state[kept].clone() + (0 if equal else 1e-3)
    save_file(state, folder / "model.safetensors")
    if equal:
        weights.load_backbone(str(folder))
        return
    with pytest.raises(CheckpointError, match="layer_rn.2.weight"):
        weights.load_backbone(str(folder))


# --- loading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["safetensors", *(pytest.param(k, marks=needs_safe_pth) for k in ("pth", "legacy pth"))]
)
def test_every_tensor_arrives(folder: Path, state: dict[str, torch.Tensor], kind: str) -> None:
    if kind != "safetensors":
        (folder / "model.safetensors").unlink()
        content = {"args": argparse.Namespace(model=MODEL_TEXT), "model": state}
        torch.save(content, folder / "a.pth", _use_new_zipfile_serialization=kind == "pth")
    model, info = weights.load_backbone(str(folder))
    loaded = model.state_dict()
    assert set(loaded) == set(state) and all(torch.equal(loaded[name], state[name]) for name in state)
    assert info.num_parameters == sum(value.numel() for value in state.values())
    assert info.sha256 == hashlib.sha256(info.source.path.read_bytes()).hexdigest()
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    every = weights.load_state(info.source)
    assert set(every) == set(state) and all(torch.equal(every[name], state[name]) for name in state)


def test_parts_come_and_go(folder: Path) -> None:
    whole, _ = weights.load_backbone(str(folder))
    model, info = weights.build_backbone(str(folder))
    images = torch.rand(2, 3, 32, 48) * 2 - 1
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    with torch.inference_mode():
        weights.load_part(model, info.source, "encoder")
        features = model.encode(images)
        assert model.dec_norm.weight.is_meta
        weights.release_part(model, "encoder")
        assert all(parameter.is_meta for parameter in model.parameters())
        weights.load_part(model, info.source, "decoder")
        ours = model.decode(features[:1], features[1:], (2, 3))
        expected_features = whole.encode(images)
        expected = whole.decode(expected_features[:1], expected_features[1:], (2, 3))
    assert torch.equal(features, expected_features)
    assert torch.equal(ours.points_j, expected.points_j)


def test_half_precision_file_and_blocks(folder: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({name: value.half() for name, value in state.items()}, folder / "model.safetensors")
    model, _ = weights.load_backbone(str(folder), dtype=torch.bfloat16)
    assert model.enc_blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.downstream_head1.parameters()} == {torch.float32}
    assert model.enc_blocks[0].norm1.weight.dtype == torch.float32


@torch.inference_mode()
def test_matrices_of_half_precision_are_what_autocast_makes_of_them(folder: Path) -> None:
    full, _ = weights.load_backbone(str(folder))
    half, _ = weights.load_backbone(str(folder), dtype=torch.bfloat16)
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features, expected = half.encode(images), full.encode(images)
        ours, theirs = (m.decode(expected[:1], expected[1:], (2, 3)) for m in (half, full))
    assert torch.equal(features, expected)
    assert torch.equal(ours.points_i, theirs.points_i) and torch.equal(ours.attention.on_j, theirs.attention.on_j)


MEMORY = """
import sys
from pathlib import Path
from easi3r_ns.network import weights

def resident_bytes():
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmRSS"))
    return int(line.split()[1]) * 1024

model, info = weights.build_backbone(sys.argv[1])
before = resident_bytes()
weights.load_part(model, info.source, "encoder")
loaded = resident_bytes()
size = sum(p.numel() * p.element_size() for n, p in model.named_parameters() if n.startswith("enc_") and not p.is_meta)
weights.release_part(model, "encoder")
print(size, loaded - before, resident_bytes() - before)
"""


def test_released_part_gives_its_memory_back(tmp_path: Path) -> None:
    """In a process of its own: what other tests have freed would be used again and hide the difference."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the resident set is read from /proc")
    config = DUSt3RConfig(enc_depth=4, dec_depth=4)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in DUSt3R(config).state_dict().items()}
    tensors = {name: torch.ones(shape, dtype=torch.float16) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(vars(config)))
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    size, loaded, released = map(int, result.stdout.split())
    assert loaded > 0.9 * size > 100e6
    assert released < 0.1 * size


# --- names, licences, cards --------------------------------------------------------------------------------------


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(tmp_path / "by-hand"))
    return tmp_path / "by-hand"


@pytest.mark.parametrize("name", [name for name, known in sources.KNOWN.items() if known.hub_repo])
def test_offline_error_says_what_to_fetch_and_where(name: str, offline: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        sources.resolve(name)
    message = str(caught.value)
    for text in (
        "config.json",
        "model.safetensors",
        sources.KNOWN[name].hub_repo,
        str(offline / name),
        "--weights tiny",
    ):
        assert text in message


@pytest.mark.parametrize("spec", ["monst3r", "someone/their-net"])
def test_hub_is_asked_after_the_cache(spec: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(
        repo: str, name: str, *, revision: str | None, local_files_only: bool = False, force_download: bool = False
    ) -> str:
        calls.append((repo, name, local_files_only))
        if local_files_only:
            raise FileNotFoundError(name)
        return str(folder / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(Repository, "look_up", lambda self, file: SimpleNamespace(etag=None))
    monkeypatch.setenv("EASI3R_NS_WEIGHTS", str(folder / "none"))
    source = sources.resolve(spec)
    repo = sources.KNOWN[spec].hub_repo if spec in sources.KNOWN else spec
    assert [call[2] for call in calls] == [True, False, False]
    assert {call[0] for call in calls} == {source.hub_repo} == {repo}
    assert (source.path, source.config_path) == (folder / "model.safetensors", folder / "config.json")
    assert source.licence == (sources.NON_COMMERCIAL if spec == "monst3r" else sources.UNKNOWN_LICENCE)


def test_failed_download_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*args: object, **options: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(Repository, "look_up", lambda self, file: SimpleNamespace(etag=None))
    with pytest.raises(CheckpointError, match=r"the download failed: .*\(the disk is full\)"):
        sources.resolve("someone/their-net")


@pytest.mark.parametrize("download", [True, False])
def test_auto_never_settles_for_less(download: bool, offline: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        sources.resolve("auto", download=download)
    message = str(error.value)
    for part in ("means dust3r", "2.3 GB", sources.NON_COMMERCIAL, str(offline / "dust3r"), "COLMAP"):
        assert part in message
    assert [message.count(f"--weights {name}:") for name in ("dust3r", "tiny", "none")] == [1, 1, 1]


def test_auto_is_dust3r_where_that_is_here(offline: Path, folder: Path) -> None:
    (offline / "dust3r").mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (offline / "dust3r" / name).write_bytes((folder / name).read_bytes())
    log = RunLog()
    _, info = weights.build_backbone("auto", log=log)
    assert info.name == "dust3r" and info.provenance() == weights.build_backbone("dust3r")[1].provenance()
    assert any(sources.NON_COMMERCIAL in warning for warning in log.warnings)


def test_auto_does_not_hide_a_damaged_folder(offline: Path) -> None:
    (offline / "dust3r").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="should hold model.safetensors"):
        sources.resolve("auto")


def test_files_put_where_the_error_says_are_found(offline: Path, folder: Path) -> None:
    target = offline / "dust3r"
    target.mkdir(parents=True)
    for name in ("model.safetensors", "config.json"):
        (target / name).write_bytes((folder / name).read_bytes())
    log = RunLog()
    _, info = weights.build_backbone("dust3r", log=log)
    assert info.non_commercial and info.licence == "CC BY-NC-SA 4.0"
    assert len(log.warnings) == 1 and "non-commercial" in log.warnings[0]
    assert info.provenance()["licence"] == "CC BY-NC-SA 4.0"
    json.dumps(info.provenance())


@pytest.mark.parametrize("spec", ["dust2r", "missing/file.pth", "./nothing", "a/b/c"])
def test_unknown_spec(spec: str, offline: Path) -> None:
    with pytest.raises(CheckpointError, match="did you mean dust3r" if spec == "dust2r" else None):
        sources.resolve(spec)


def test_published_file_name_keeps_its_licence(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = save_pth(tmp_path / "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth", state)
    assert sources.resolve(str(path)).licence == sources.NON_COMMERCIAL


def test_card_is_read_and_its_hash_checked(folder: Path) -> None:
    score = {"mean_src": 0, "std_src": 1, "mean_ref": 0, "std_ref": 1}
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    card = {"licence": "Apache-2.0", "sha256": sha256, "dynamic_score": score, "graph": "swin-2-noncyclic"}
    (folder / "card.json").write_text(json.dumps(card))
    log = RunLog()
    _, info = weights.build_backbone(str(folder), log=log)
    assert (info.score, info.graph, info.licence) == (ScoreFormula(0, 1, 0, 1), "swin-2-noncyclic", "Apache-2.0")
    assert not info.non_commercial and not log.warnings
    tensors = load_file(folder / "model.safetensors")
    tensors["dec_norm.bias"] = tensors["dec_norm.bias"] + 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="SHA-256"):
        weights.build_backbone(str(folder))


def test_score_defaults_to_the_paper(folder: Path) -> None:
    _, info = weights.build_backbone(str(folder))
    assert info.score == ScoreFormula(-1, 1, 1, -1) and info.graph is None


def test_card_may_ask_for_a_flow_weight(folder: Path) -> None:
    assert weights.build_backbone(str(folder))[1].flow_weight is None
    (folder / "card.json").write_text(json.dumps({"flow_weight": 0.3}))
    assert weights.build_backbone(str(folder))[1].flow_weight == 0.3
    for wrong in (-1, "much", float("nan"), True):
        (folder / "card.json").write_text(json.dumps({"flow_weight": wrong}))
        with pytest.raises(CheckpointError, match="flow_weight"):
            weights.build_backbone(str(folder))


@pytest.mark.parametrize(
    "score",
    [
        {"mean_src": 1},
        "x",
        {"mean_src": 2, "std_src": 1, "mean_ref": 1, "std_ref": -1},
        {"mean_src": 0, "std_src": 0, "mean_ref": 0, "std_ref": 0},
        {"mean_src": 0, "std_src": 0.5, "mean_ref": 0, "std_ref": 0},
        {"mean_src": 0, "std_src": True, "mean_ref": 0, "std_ref": 0},
        {"mean_src": 1, "std_src": 1, "mean_ref": 1, "std_ref": -1, "centred": 2},
        {"mean_src": 1, "std_src": 1, "mean_ref": 1, "std_ref": -1, "centered": 1},
        {"mean_src": 1, "std_src": 1, "mean_ref": 1, "std_ref": -1, "first_channel": 16},
        {"mean_src": 1, "std_src": 1, "mean_ref": 1, "std_ref": -1, "num_clusters": 0},
        {"mean_src": 1, "std_src": 1, "mean_ref": 1, "std_ref": -1, "clusterings": 2.0},
        {"mean_src": 1, "std_src": 1, "mean_ref": 1, "std_ref": -1, "flow_residual": -1},
    ],
)
def test_bad_score_is_refused(folder: Path, score: object) -> None:
    (folder / "card.json").write_text(json.dumps({"dynamic_score": score}))
    with pytest.raises(CheckpointError, match="dynamic_score"):
        weights.build_backbone(str(folder))


def test_tiny_ships_and_is_intact(offline: Path) -> None:
    if not (sources.BUNDLED / "tiny" / "model.safetensors").exists():
        pytest.skip("the tiny checkpoint is not in the package yet")
    _, info = weights.build_backbone("tiny")
    assert info.licence == "Apache-2.0" and not info.non_commercial
    assert info.source.path.stat().st_size < 25e6
    assert json.loads(info.source.card_path.read_text())["sha256"] == info.sha256
