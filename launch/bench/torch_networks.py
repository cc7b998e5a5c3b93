"""The networks in PyTorch: ours, with our weights, and StarDist's.

Images are [B, 1, H, W], channels-last in memory.
"""

import os
import pathlib

import numpy as np
import torch
from torch import nn


def _double(n_in: int, n_out: int, norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for n in (n_in, n_out):
        layers.append(nn.Conv2d(n, n_out, 3, padding=1, bias=not norm))
        if norm:
            layers.append(nn.BatchNorm2d(n_out, eps=1e-3, momentum=0.1))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


class _Nearest(nn.Sequential):
    """Nearest up-sampling, a 2x2 convolution padded as in Keras, ReLU."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__(
            nn.Upsample(scale_factor=2),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(n_in, n_out, 2),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """A network of `ours.network`: [B, 1, H, W] -> logits [B, 1, H, W]."""

    def __init__(self, name: str, width: int, depth: int = 4):
        super().__init__()
        small = name == "unet_small"
        widths = [width << level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _double(n_in, n, small)
            for n_in, n in zip([1, *widths], widths, strict=False)
        )
        below = widths[:-1][::-1]
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * n, n, 2, stride=2)
            if small
            else _Nearest(2 * n, n)
            for n in below
        )
        self.merge = nn.ModuleList(_double(2 * n, n, small) for n in below)
        self.tail = None if small else nn.Conv2d(width, 2, 3, padding=1)
        self.head = nn.Conv2d(width if small else 2, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        if self.tail is not None:
            x = torch.relu(self.tail(x))
        return self.head(x)


class StarDist(nn.Module):
    """StarDist 2D as its `Config2D` has it by default, with grid (2, 2).

    Schmidt et al., MICCAI 2018, and github.com/stardist/stardist: two
    convolutions and a pooling for the grid, a U-Net of depth 3 with 32 filters
    and two convolutions a level without normalisation, 128 features; out are
    a probability and 32 distances for each 2x2 px.
    """

    def __init__(self, width: int = 32, depth: int = 3, n_rays: int = 32):
        super().__init__()
        widths = [width << level for level in range(depth)]
        self.grid = _double(1, width, False)
        self.down = nn.ModuleList(
            _double(n_in, n, False)
            for n_in, n in zip([width, *widths], widths, strict=False)
        )
        last, bottom = widths[-1], width << depth
        self.middle = _pair(last, bottom, last)
        # a level gives what the one above has, so that up-sampling is cheap
        self.up = nn.ModuleList(
            _pair(2 * n, n, max(n // 2, width)) for n in widths[::-1]
        )
        self.features = nn.Conv2d(width, 128, 3, padding=1)
        self.prob = nn.Conv2d(128, 1, 1)
        self.dist = nn.Conv2d(128, n_rays, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = nn.functional.max_pool2d(self.grid(x), 2)
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = nn.functional.max_pool2d(x, 2)
        x = self.middle(x)
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, skips.pop()], 1))
        x = torch.relu(self.features(x))
        return torch.sigmoid(self.prob(x)), self.dist(x)


def _pair(n_in: int, n: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(n, n_out, 3, padding=1),
        nn.ReLU(inplace=True),
    )


def load(file: str | os.PathLike, name: str, width: int) -> UNet:
    """The network with our weights, named as in a bundle; channels-last."""
    weights = dict(np.load(pathlib.Path(file)))
    model = UNet(name, width)

    def put(target: torch.Tensor, name: str, axes: tuple[int, ...] = ()):
        value = weights.pop(name)
        value = value.transpose(axes) if axes else value
        assert target.shape == value.shape, name
        target.data.copy_(torch.from_numpy(np.ascontiguousarray(value)))

    def put_conv(conv: nn.Module, name: str, axes: tuple[int, ...]) -> None:
        put(conv.weight, f"{name}/kernel", axes)
        if conv.bias is not None:
            put(conv.bias, f"{name}/bias")

    same = (3, 2, 0, 1)
    for part in ("down", "merge"):
        for i, block in enumerate(getattr(model, part)):
            convs = [m for m in block if isinstance(m, nn.Conv2d)]
            norms = [m for m in block if isinstance(m, nn.BatchNorm2d)]
            for j, conv in enumerate(convs, 1):
                put_conv(conv, f"{part}/{i}/conv{j}", same)
            for j, norm in enumerate(norms, 1):
                at = f"{part}/{i}/norm{j}"
                put(norm.weight, f"{at}/scale")
                put(norm.bias, f"{at}/bias")
                put(norm.running_mean, f"{at}/mean")
                put(norm.running_var, f"{at}/var")
    for i, up in enumerate(model.up):
        if isinstance(up, _Nearest):
            put_conv(up[2], f"up/{i}/conv", same)
        else:
            put_conv(up, f"up/{i}", (2, 3, 0, 1))
    if model.tail is not None:
        put_conv(model.tail, "tail", same)
    put_conv(model.head, "head", same)
    assert not weights, f"not used: {sorted(weights)}"
    return model.to(memory_format=torch.channels_last)
