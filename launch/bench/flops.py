"""What a network has to compute, and what a device could.

Multiplications and additions of the convolutions, as the textbook layer has
them: a transposed 2x2 convolution of stride 2 is one tap an output pixel,
nearest up-sampling and a 2x2 convolution four, whatever a program makes of
them. A backward pass is two forward passes. What is left out (normalisation,
activations, optimiser) is below one per cent.
"""

from seg import config as config_lib

# Dense bfloat16 with float32 sums, TFLOP/s, of the makers' data sheets; a kind
# of device is the longest of these names that is in JAX's `device_kind`.
_PEAKS = {
    "A10": 125,
    "A10G": 70,
    "A100": 312,
    "B200": 2250,
    "GH200": 989,
    "H100": 989,
    "H100 NVL": 835,
    "H100 PCIe": 756,
    "H200": 989,
    "L4": 121,
    "L40S": 362,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
}


def forward(model: config_lib.Model, side: int) -> float:
    """FLOPs of a U-Net of `seg.models` for one image of side x side px."""
    stem = model.stem or 1
    depth = 4 if model.depth is None else model.depth
    classic = model.name == "unet"
    width = model.width or (64 if classic else 16)
    widths = [width << level for level in range(depth + 1)]
    pixels = [(side // stem) ** 2 // 4**level for level in range(depth + 1)]
    total, n_in = 0, model.in_channels * stem**2
    for n, area in zip(widths, pixels, strict=True):
        total += 9 * area * n * (n_in + n)
        n_in = n
    for n, area in zip(widths[:-1], pixels, strict=False):
        up = (4 if classic else 1) * area * n * 2 * n
        total += up + 9 * area * n * (2 * n + n)
    n_out, n_last = model.n_classes * stem**2, width
    if classic:
        n_last = max(2, model.n_classes) * stem**2
        total += 9 * pixels[0] * width * n_last
    return 2.0 * (total + pixels[0] * n_last * n_out)


def peak(device_kind: str) -> float | None:
    """FLOP/s that the device could reach in bfloat16; None where unknown."""
    known = [name for name in _PEAKS if name.lower() in device_kind.lower()]
    return _PEAKS[max(known, key=len)] * 1e12 if known else None


def utilisation(flops: float, seconds: float, device_kind: str) -> float | str:
    """Model FLOP utilisation, a share; "-" where the device is unknown."""
    most = peak(device_kind)
    return flops / seconds / most if most else "-"
