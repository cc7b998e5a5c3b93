"""PyTorch, as its documentation says to use it on each device.

Weights, input, loss and optimiser are those of our side (`folder`); layouts
are channels-last, bfloat16 is autocast, AdamW is fused on a GPU. With `mode`,
the whole of network and loss goes through `torch.compile` in that mode, or by
that backend.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from launch.bench import duel, torch_networks

_BACKENDS = ("aot_eager", "eager")  # those that need no compiler


def train_step(
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    device: str = "cpu",
    mode: str = "",
) -> duel.Side:
    """Forward, backward and AdamW, the input on the device already."""
    del batch_size, side
    model, image = _load(folder, architecture, width, device)
    model.train()
    computes = computes_in(model, image, dtype, device)
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

    def once(n: int = 1) -> float:
        for _ in range(n):
            optimizer.zero_grad(set_to_none=True)
            loss = objective()
            loss.backward()
            optimizer.step()
        return float(loss.detach())

    first = {"first loss": once()}
    squares = [p.grad.double().square().sum() for p in model.parameters()]
    first["gradient norm"] = float(sum(squares) ** 0.5)
    later = {f"loss of step {i}": once() for i in (2, 3)}
    about = {"computes_in": computes, "found": first | later}
    return once, teller(device, mode, about)


def predict(
    folder: pathlib.Path,
    *,
    dtype: str,
    batch_size: int,
    side: int,
    width: int,
    architecture: str = "unet_small",
    resident: bool = False,
    device: str = "cpu",
    mode: str = "",
) -> duel.Side:
    """A batch of tiles, from and to NumPy, as `inference_mode` has it.

    With `resident`, n of them, input and result on the device.
    """
    del batch_size, side
    model, held = _load(folder, architecture, width, device)
    model.eval()
    computes = computes_in(model, held, dtype, device)
    network = _compile(model, mode)
    image = np.load(folder / "batch.npz")["image"]

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), _compute(dtype, device):
            return torch.sigmoid(network(x).float())

    def transferred() -> np.ndarray:
        found = run(_put(image, device))
        return found.permute(0, 2, 3, 1).contiguous().cpu().numpy()

    def on_device(n: int = 1) -> None:
        for _ in range(n):
            run(held)
        if device == "cuda":
            torch.cuda.synchronize()

    found, wanted = transferred(), np.load(folder / "probabilities.npy")
    worst = float(np.abs(found - wanted).max() / np.ptp(wanted))
    about = {"computes_in": computes, "apart": {"probabilities": worst}}
    return (
        on_device if resident else transferred,
        teller(device, mode, about),
    )


def stardist(
    folder: pathlib.Path, *, dtype: str, batch_size: int, side: int, width: int
) -> duel.Side:
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

    n = sum(p.numel() for p in model.parameters())
    by = f"StarDist's network ({n / 1e6:.2f} M parameters) by "
    about = {"computes_in": computes_in(model, _put(image), dtype, "cpu")}
    tell = teller("cpu", "", about)
    return once, lambda: tell() | {"program": by + tell()["program"]}


def _compute(dtype: str, device: str) -> torch.autocast:
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")


def computes_in(
    model: torch.nn.Module, image: torch.Tensor, dtype: str, device: str
) -> str:
    """The type that comes out of the network's last convolution."""
    with torch.no_grad(), _compute(dtype, device):
        found = model(image[:1])
    found = found[0] if isinstance(found, tuple) else found
    return str(found.dtype).removeprefix("torch.")


def _compile(function: Callable, mode: str) -> Callable:
    torch.backends.cudnn.benchmark = True
    if not mode:
        return function
    how = "backend" if mode in _BACKENDS else "mode"
    return torch.compile(function, **{how: mode})


def _put(image: np.ndarray, device: str = "cpu") -> torch.Tensor:
    x = torch.from_numpy(image.transpose(0, 3, 1, 2))
    return x.to(device).contiguous(memory_format=torch.channels_last)


def _load(
    folder: pathlib.Path, architecture: str, width: int, device: str
) -> tuple[torch_networks.UNet, torch.Tensor]:
    model = torch_networks.load(folder / "weights.npz", architecture, width)
    image = np.load(folder / "batch.npz")["image"]
    return model.to(device), _put(image, device)


def teller(
    device: str, mode: str, about: dict[str, Any]
) -> Callable[[], dict[str, Any]]:
    """Tells of the runs from here on, so that all is warm by now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    compiled = f", torch.compile({mode})" if mode else ""

    def tell() -> dict[str, Any]:
        on_gpu = device == "cuda"
        return about | {
            "program": f"PyTorch {torch.__version__}, channels-last{compiled}",
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name() if on_gpu else device,
            "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9
            if on_gpu
            else "-",
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
        }

    return tell
