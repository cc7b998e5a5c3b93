"""PyTorch, as its documentation says to use it on each device.

Weights, input, loss and optimiser are those of our side (`folder`); layouts
are channels-last, bfloat16 is autocast.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

Side = tuple[Callable[[], Any], dict[str, Any]]

_CLOSE = 1e-3  # of logits, between two float32 programs


class _DoubleConv(nn.Sequential):
    def __init__(self, n_in: int, n_out: int):
        layers = []
        for n in (n_in, n_out):
            layers += [
                nn.Conv2d(n, n_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.1),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class UNet(nn.Module):
    """The network of `ours.network`: [B, 1, H, W] -> logits [B, 1, H, W]."""

    def __init__(self, width: int, depth: int = 4):
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _DoubleConv(n_in, n)
            for n_in, n in zip([1, *widths], widths, strict=False)
        )
        below = widths[:-1][::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in below
        )
        self.merge = nn.ModuleList(_DoubleConv(2 * n, n) for n in below)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


def train_step(
    folder: pathlib.Path, *, dtype: str, batch_size: int, side: int, width: int
) -> Side:
    """Forward, backward and AdamW, the input on the device already."""
    del batch_size, side
    model, image = _load(folder, width)
    model.train()
    truth = np.load(folder / "batch.npz")["classes"]
    truth = torch.from_numpy(truth[:, None].astype(np.float32))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-3, weight_decay=1e-4, eps=1e-8
    )

    def once() -> float:
        optimizer.zero_grad(set_to_none=True)
        with _compute(dtype):
            logits = model(image)
        logits = logits.float()
        p = torch.sigmoid(logits)
        dice = 1 - (2 * (p * truth).sum() + 2) / (p.sum() + truth.sum() + 2)
        loss = dice + nn.functional.binary_cross_entropy_with_logits(
            logits, truth
        )
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    first = once()
    return once, {**_about(), "first_loss": first}


def predict(
    folder: pathlib.Path, *, dtype: str, batch_size: int, side: int, width: int
) -> Side:
    """A batch of tiles, from and to NumPy, as `inference_mode` has it."""
    del batch_size, side
    model, _ = _load(folder, width)
    model.eval()
    image = np.load(folder / "batch.npz")["image"]

    def once() -> np.ndarray:
        with torch.inference_mode(), _compute(dtype):
            x = torch.from_numpy(image.transpose(0, 3, 1, 2))
            x = x.contiguous(memory_format=torch.channels_last)
            p = torch.sigmoid(model(x).float())
            return p.permute(0, 2, 3, 1).contiguous().numpy()

    found = once()
    wanted = np.load(folder / "probabilities.npy")
    worst = float(np.abs(found - wanted).max())
    if dtype == "float32" and worst > _CLOSE:
        raise ValueError(f"the two networks differ by {worst}")
    return once, {**_about(), "max_difference": worst}


def _compute(dtype: str) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")


def _load(folder: pathlib.Path, width: int) -> tuple[UNet, torch.Tensor]:
    weights = np.load(folder / "weights.npz")
    model = UNet(width)

    def put(target: torch.Tensor, name: str, axes: tuple[int, ...] = ()):
        value = weights[f"{name}/value"]
        value = value.transpose(axes) if axes else value
        assert target.shape == value.shape, name
        target.data.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    for part in ("down", "merge"):
        for i, block in enumerate(getattr(model, part)):
            for j, (conv, norm) in enumerate(((0, 1), (3, 4)), 1):
                at = f"{part}/{i}"
                put(
                    block[conv].weight,
                    f"params/{at}/conv{j}/kernel",
                    (3, 2, 0, 1),
                )
                put(block[norm].weight, f"params/{at}/norm{j}/scale")
                put(block[norm].bias, f"params/{at}/norm{j}/bias")
                put(block[norm].running_mean, f"stats/{at}/norm{j}/mean")
                put(block[norm].running_var, f"stats/{at}/norm{j}/var")
    for i, up in enumerate(model.up):
        put(up.weight, f"params/up/{i}/kernel", (2, 3, 0, 1))
        put(up.bias, f"params/up/{i}/bias")
    put(model.head.weight, "params/head/kernel", (3, 2, 0, 1))
    put(model.head.bias, "params/head/bias")
    image = np.load(folder / "batch.npz")["image"].transpose(0, 3, 1, 2)
    image = torch.from_numpy(np.ascontiguousarray(image))
    return (
        model.to(memory_format=torch.channels_last),
        image.to(memory_format=torch.channels_last),
    )


def _about() -> dict[str, Any]:
    return {
        "program": f"PyTorch {torch.__version__}, channels-last",
        "threads": torch.get_num_threads(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
