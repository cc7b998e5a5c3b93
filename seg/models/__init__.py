"""Networks: image -> logits.

`build(config.model, rngs)` gives an `nnx.Module` with

    model(image [B, H, W, C] float) -> {"classes": float32 [B, H, W, K]}

for every H and W that is a multiple of `model.stride`; K is
`config.n_classes`, 1 meaning one sigmoid foreground channel. Weights are
`nnx.Param`, running statistics `nnx.BatchStat`; `predicting(model)` gives the
network for prediction with the same weights. Training with dropout hands its
randomness in: `model(image, rngs=nnx.Rngs(dropout=key))`; a network holds
none, so a step is a function of its inputs. `config.dtype` is the type of
the computation; weights and logits are float32 always.

With `config.objects` it also gives "objects", float32 logits [B, H, W, 1] of
what keeps objects apart (`seg.train.losses.apart`), from the same features
by the same last layer.

With `config.deep_supervision` a network that has inner heads also gives, in
training, "aux": a list of their logits [B, H / s, W / s, K], s a power of 2.
A network without them, or without another knob, refuses it by ConfigError.
"""

import dataclasses
import functools
from typing import Any

from flax import nnx
from jax import Array

from seg import config as config_lib
from seg.models import (
    attention_unet,
    convnext_unet,
    deeplab_v3plus,
    fcn8,
    mobilenet_unet,
    residual_unet,
    segnet,
    unet,
    unet_plusplus,
    xception_unet,
)

MODELS: dict[str, type[nnx.Module]] = {
    "unet": unet.UNet,
    "unet_small": unet.UNetSmall,
    "segnet": segnet.SegNet,
    "segnet_indices": segnet.SegNetIndices,
    "xception_unet": xception_unet.XceptionUNet,
    "mobilenet_unet": mobilenet_unet.MobileNetUNet,
    "attention_unet": attention_unet.AttentionUNet,
    "unet_plusplus": unet_plusplus.UNetPlusPlus,
    "residual_unet": residual_unet.ResidualUNet,
    "fcn8": fcn8.FCN8,
    "deeplab_v3plus": deeplab_v3plus.DeepLabV3Plus,
    "convnext_unet": convnext_unet.ConvNeXtUNet,
}


def build(config: config_lib.Model, rngs: nnx.Rngs) -> nnx.Module:
    """The network that the config names, with fresh weights.

    Raises ConfigError for a name that is not in MODELS, and for knobs that the
    network has not.
    """
    if config.name not in MODELS:
        raise config_lib.ConfigError(
            config_lib.unknown("model.name", config.name, MODELS)
        )
    network = MODELS[config.name]
    if config.objects == "none":
        return network(config, rngs)
    if config.deep_supervision:
        raise config_lib.ConfigError(
            f"model.objects={config.objects} with model.deep_supervision: "
            "inner heads learn classes alone; choose one of the two"
        )
    wider = dataclasses.replace(config, n_classes=config.n_classes + 1)
    return _with_objects(network)(wider, rngs)


@functools.cache
def _with_objects(network: type[nnx.Module]) -> type[nnx.Module]:
    """The same network, paths and all; its last channel is "objects"."""

    class WithObjects(network):
        def __call__(self, image: Array, **kwargs: Any) -> dict[str, Array]:
            logits = super().__call__(image, **kwargs)["classes"]
            return {"classes": logits[..., :-1], "objects": logits[..., -1:]}

    return WithObjects


def predicting(model: nnx.Module) -> nnx.Module:
    """The network, or a part of one, for prediction: the same weights, running
    averages for the batch's moments, no dropout.
    """
    return nnx.view(
        model,
        use_running_average=True,
        deterministic=True,
        raise_if_not_found=False,
    )
