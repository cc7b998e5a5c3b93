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

With `config.deep_supervision` a network that has inner heads also gives, in
training, "aux": a list of their logits [B, H / s, W / s, K], s a power of 2.
A network without them, or without another knob, refuses it by ConfigError.
"""

from flax import nnx

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

    Raises ConfigError for a name that is not in MODELS.
    """
    if config.name not in MODELS:
        raise config_lib.ConfigError(
            config_lib.unknown("model.name", config.name, MODELS)
        )
    return MODELS[config.name](config, rngs)


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
