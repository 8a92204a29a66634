"""The networks that must prune: MONAI's as they come, nnU-Net's own, and hand-written ones of known kinds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks import nets
from torch import nn


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        build: The network, by number of spatial dimensions.
        side: Of a small square or cubic image.
        groups: How many genes tracing must find, in 2-D and in 3-D; 0 where the class has no such dimension.
        channels: Of the image.
        batch: What training needs at least.
        quick: The dimensions that CI checks; the others are checked by `make test-full`.
        share: Prunable share of FLOPs that must be reached.
        why: What keeps it below 0.8, where something does.
    """

    build: Callable[[int], nn.Module]
    side: int
    groups: tuple[int, int] = (0, 0)
    channels: int = 1
    quick: Sequence[int] = (2, 3)
    share: float = 0.8
    why: str = ""


def _senet(kind: type[nn.Module]) -> Callable[[int], nn.Module]:
    return lambda d: kind(spatial_dims=d, in_channels=1, num_classes=3)


def _unet(units: int, norm: object) -> Callable[[int], nn.Module]:
    return lambda d: nets.UNet(d, 1, 4, (16, 32, 64, 128), (2, 2, 2), num_res_units=units, norm=norm)


def _dynunet(**options: object) -> Callable[[int], nn.Module]:
    return lambda d: nets.DynUNet(
        d, 1, 2, [3, 3, 3, 3], [1, 2, 2, 2], [2, 2, 2], filters=[16, 32, 48, 64], **options
    )


def _flexible(backbone: str) -> Callable[[int], nn.Module]:
    return lambda d: nets.FlexibleUNet(1, 2, backbone, spatial_dims=d)


def _vit(dims: int) -> nn.Module:
    return nets.ViT(
        1,
        (16,) * dims,
        (4,) * dims,
        hidden_size=48,
        mlp_dim=96,
        num_layers=3,
        num_heads=4,
        classification=True,
        num_classes=3,
        spatial_dims=dims,
    )


def _unetr(dims: int) -> nn.Module:
    return nets.UNETR(1, 2, 32, feature_size=16, hidden_size=48, mlp_dim=96, num_heads=4, spatial_dims=dims)


def _swin(dims: int) -> nn.Module:
    return nets.SwinUNETR(1, 2, feature_size=12, spatial_dims=dims)


def _dints(dims: int) -> nn.Module:
    blocks, depths = 4, 3
    paths = 3 * depths - 2
    operations = np.arange(blocks * paths).reshape(blocks, paths) % 2  # skips and 3x3 convolutions
    space = nets.TopologyInstance(
        [np.ones((blocks, paths)), operations], 0.5, num_blocks=blocks, num_depths=depths, spatial_dims=dims
    )
    return nets.DiNTS(space, 1, 3, spatial_dims=dims, node_a=torch.ones(blocks + 1, depths))


def _nnunet(kind: type[nn.Module], deep_supervision: bool) -> Callable[[int], nn.Module]:
    def build(dims: int) -> nn.Module:
        depth = "n_blocks_per_stage" if kind is ResidualEncoderUNet else "n_conv_per_stage"
        return kind(
            input_channels=1,
            n_stages=4,
            features_per_stage=[16, 32, 64, 64],
            conv_op=nn.Conv3d if dims == 3 else nn.Conv2d,
            kernel_sizes=3,
            strides=[1, 2, 2, 2],
            num_classes=2,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=nn.InstanceNorm3d if dims == 3 else nn.InstanceNorm2d,
            norm_op_kwargs={"affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=deep_supervision,
            **{depth: 2},
        )

    return build


ZOO: dict[str, Entry] = {
    "ResNet18": Entry(lambda d: nets.resnet18(spatial_dims=d, n_input_channels=1, num_classes=3), 17),
    "ResNet50": Entry(lambda d: nets.resnet50(spatial_dims=d, n_input_channels=1, num_classes=3), 17),
    "SEResNet50": Entry(_senet(nets.SEResNet50), 32),
    "SEResNext50": Entry(_senet(nets.SEResNext50), 32),
    "SENet154": Entry(_senet(nets.SENet154), 32),
    "DenseNet121": Entry(lambda d: nets.DenseNet121(d, 1, 3), 32),
    "EfficientNetBN-b0": Entry(
        lambda d: nets.EfficientNetBN(
            "efficientnet-b0", pretrained=False, spatial_dims=d, in_channels=1, num_classes=3
        ),
        32,
    ),
    "HighResNet": Entry(lambda d: nets.HighResNet(d, 1, 2), 16),
    "UNet": Entry(_unet(0, "instance"), 16),
    "UNet, residual, batch norm": Entry(_unet(2, "batch"), 16),
    "UNet, residual, instance norm": Entry(_unet(2, "instance"), 16),
    "UNet, residual, group norm": Entry(_unet(2, ("group", {"num_groups": 4})), 16),
    "BasicUNet": Entry(lambda d: nets.BasicUNet(d, 1, 2, features=(16, 16, 32, 32, 64, 16)), 32),
    "BasicUNetPlusPlus": Entry(
        lambda d: nets.BasicUNetPlusPlus(d, 1, 2, features=(16, 16, 32, 32, 64, 16)), 32
    ),
    "DynUNet": Entry(_dynunet(), 16),
    "DynUNet, residual": Entry(_dynunet(res_block=True), 16),
    "DynUNet, deep supervision": Entry(_dynunet(deep_supervision=True, deep_supr_num=2), 16),
    "SegResNet": Entry(lambda d: nets.SegResNet(d, in_channels=1), 16),
    "SegResNetDS": Entry(lambda d: nets.SegResNetDS(d, init_filters=16, dsdepth=2), 16),
    "SegResNetVAE": Entry(
        lambda d: nets.SegResNetVAE([16] * d, spatial_dims=d, in_channels=1, out_channels=2), 16
    ),
    "AttentionUnet": Entry(lambda d: nets.AttentionUnet(d, 1, 2, (16, 32, 64), (2, 2)), 16),
    "VNet": Entry(lambda d: nets.VNet(d, 1, 2), 32),
    "FlexibleUNet, efficientnet-b0": Entry(_flexible("efficientnet-b0"), 32),
    "FlexibleUNet, resnet18": Entry(_flexible("resnet18"), 32),
    "ViT": Entry(_vit, 16),
    "UNETR": Entry(_unetr, 32),
    "SwinUNETR": Entry(_swin, 64),
    "MedNeXt": Entry(lambda d: nets.MedNeXt(d, init_filters=16, kernel_size=3), 32),
    "MedNeXt, deep supervision": Entry(
        lambda d: nets.MedNeXt(d, init_filters=16, kernel_size=3, deep_supervision=True), 32
    ),
    "Discriminator": Entry(lambda d: nets.Discriminator((1, *[16] * d), (8, 16, 32), (2, 2, 2)), 16),
    "Regressor": Entry(lambda d: nets.Regressor((1, *[16] * d), (2,), (8, 16, 32), (2, 2, 2)), 16),
    "Classifier": Entry(lambda d: nets.Classifier((1, *[16] * d), 3, (8, 16, 32), (2, 2, 2)), 16),
    "AutoEncoder": Entry(lambda d: nets.AutoEncoder(d, 1, 1, (16, 32, 64), (2, 2, 2)), 16),
    "HoVerNet": Entry(lambda d: nets.HoVerNet(mode="fast", in_channels=1, out_classes=3), 256),
    "QuickNAT": Entry(lambda d: nets.Quicknat(num_classes=3, num_filters=16), 32),
    "DiNTS": Entry(_dints, 32),
    "nnU-Net PlainConvUNet": Entry(_nnunet(PlainConvUNet, False), 16),
    "nnU-Net PlainConvUNet, deep supervision": Entry(_nnunet(PlainConvUNet, True), 16),
    "nnU-Net ResidualEncoderUNet": Entry(_nnunet(ResidualEncoderUNet, False), 16),
    "nnU-Net ResidualEncoderUNet, deep supervision": Entry(_nnunet(ResidualEncoderUNet, True), 16),
}
