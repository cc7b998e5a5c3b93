"""PyTorch, as its documentation says to use it on each device.

Weights, input, loss and optimiser are those of our side (`folder`); layouts
are channels-last, bfloat16 is autocast, AdamW is fused on a GPU. With `mode`,
the whole of network and loss goes through `torch.compile` in that mode.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from launch.bench import torch_networks

Side = tuple[Callable[[], Any], dict[str, Any]]

_CLOSE = 1e-3  # of logits, between two float32 programs


def train_step(
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    steps: int = 1,
    device: str = "cpu",
    mode: str = "",
) -> Side:
    """Forward, backward and AdamW, the input on the device already."""
    del batch_size, side
    model, image = _load(folder, architecture, width, device)
    model.train()
    truth = np.load(folder / "batch.npz")["classes"]
    truth = torch.from_numpy(truth[:, None].astype(np.float32)).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-3,
        weight_decay=1e-4,
        eps=1e-8,
        fused=device == "cuda",
    )

    def objective() -> torch.Tensor:
        with _compute(dtype, device):
            logits = model(image)
        logits = logits.float()
        p = torch.sigmoid(logits)
        dice = 1 - (2 * (p * truth).sum() + 2) / (p.sum() + truth.sum() + 2)
        return dice + torch.nn.functional.binary_cross_entropy_with_logits(
            logits, truth
        )

    objective = _compile(objective, mode)

    def once(n: int = steps) -> float:
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            loss = objective()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    first = once(1)
    later = [once(1) for _ in range(2)]
    return once, {
        **_about(device, mode),
        "first_loss": first,
        "loss_after": later,
    }


def predict(
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    device: str = "cpu",
    mode: str = "",
) -> Side:
    """A batch of tiles, from and to NumPy, as `inference_mode` has it."""
    del batch_size, side
    model, _ = _load(folder, architecture, width, device)
    model.eval()
    network = _compile(model, mode)
    image = np.load(folder / "batch.npz")["image"]

    def once() -> np.ndarray:
        with torch.inference_mode(), _compute(dtype, device):
            p = torch.sigmoid(network(_put(image, device)).float())
            return p.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    found = once()
    wanted = np.load(folder / "probabilities.npy")
    worst = float(np.abs(found - wanted).max())
    if dtype == "float32" and worst > _CLOSE:
        raise ValueError(f"the two networks differ by {worst}")
    return once, {**_about(device, mode), "max_difference": worst}


def stardist(
    folder: pathlib.Path, *, dtype: str, batch_size: int, side: int, width: int
) -> Side:
    """StarDist's network, with weights of its own, on the same images."""
    del batch_size, side, width
    torch.manual_seed(0)
    model = torch_networks.StarDist().eval()
    model = model.to(memory_format=torch.channels_last)
    image = np.load(folder / "batch.npz")["image"]

    def once() -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode(), _compute(dtype, "cpu"):
            prob, dist = model(_put(image, "cpu"))
            return prob.float().numpy(), dist.float().numpy()

    once()
    about = _about("cpu", "")
    about["program"] = f"StarDist's network by {about['program']}"
    about["parameters"] = sum(p.numel() for p in model.parameters())
    return once, about


def _compute(dtype: str, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")


def _compile(function: Callable, mode: str) -> Callable:
    torch.backends.cudnn.benchmark = True
    return torch.compile(function, mode=mode) if mode else function


def _put(image: np.ndarray, device: str) -> torch.Tensor:
    x = torch.from_numpy(image.transpose(0, 3, 1, 2))
    return x.to(device).contiguous(memory_format=torch.channels_last)


def _load(
    folder: pathlib.Path, architecture: str, width: int, device: str
) -> tuple[torch_networks.UNet, torch.Tensor]:
    model = torch_networks.load(folder / "weights.npz", architecture, width)
    image = np.load(folder / "batch.npz")["image"]
    return model.to(device), _put(image, device)


def _about(device: str, mode: str) -> dict[str, Any]:
    peak = "-"
    if device == "cuda":
        device = torch.cuda.get_device_name()
        peak = torch.cuda.max_memory_allocated() / 1e9
    compiled = f", torch.compile({mode})" if mode else ""
    return {
        "program": f"PyTorch {torch.__version__}, channels-last{compiled}",
        "threads": torch.get_num_threads(),
        "device": device,
        "peak_memory_gb": peak,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }
