"""Every network that must prune: MONAI's and nnU-Net's own, and the kinds that people write by hand."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from monai.networks import nets
from monai.networks.nets.senet import SENet154
from torch import Tensor, nn

from tests import handwritten


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        build: Makes it, by the number of spatial dimensions.
        side: Of a small image that it takes.
        dims: Numbers of spatial dimensions that it is made for.
        least: The share of its FLOPs that pruning must be able to remove.
        why: Why that is less than 80 %.
        drop: Modules that pruned networks do without.
        inputs: Channels of the image.
        images: How many of them the network takes.
    """

    build: Callable[[int], nn.Module]
    side: int = 32
    dims: tuple[int, ...] = (2, 3)
    least: float = 0.8
    why: str = ""
    drop: tuple[str, ...] = ()
    inputs: int = 1
    images: int = 1

    def example(self, dims: int, batch: int = 1) -> Tensor | tuple[Tensor, ...]:
        """A random image, or as many as the network takes."""
        images = tuple(torch.randn(batch, self.inputs, *[self.side] * dims) for _ in range(self.images))
        return images if self.images > 1 else images[0]


def _unet(**options: Any) -> Callable[[int], nn.Module]:
    return lambda d: nets.UNet(d, 1, 2, (8, 16, 32, 64), (2, 2, 2), **options)


def _basic(kind: type[nn.Module], **options: Any) -> Callable[[int], nn.Module]:
    return lambda d: kind(d, 1, 2, features=(8, 8, 16, 32, 64, 8), **options)


def _dynunet(**options: Any) -> Callable[[int], nn.Module]:
    def build(d: int) -> nn.Module:
        filters = [8, 16, 32, 64]
        return nets.DynUNet(
            d, 1, 2, [3] * 4, [1, 2, 2, 2], [2, 2, 2], filters=filters, norm_name="instance", **options
        )

    return build


def _nnunet(kind: type[nn.Module], blocks: str, deep_supervision: bool) -> Callable[[int], nn.Module]:
    def build(d: int) -> nn.Module:
        return kind(
            input_channels=1,
            n_stages=4,
            features_per_stage=(8, 16, 32, 64),
            conv_op=(nn.Conv2d, nn.Conv3d)[d - 2],
            kernel_sizes=3,
            strides=(1, 2, 2, 2),
            **{blocks: (1, 2, 2, 2)},
            num_classes=3,
            n_conv_per_stage_decoder=(1, 1, 1),
            conv_bias=True,
            norm_op=(nn.InstanceNorm2d, nn.InstanceNorm3d)[d - 2],
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=deep_supervision,
        )

    return build


def _senet(kind: type[nn.Module], **options: Any) -> Callable[[int], nn.Module]:
    return lambda d: kind(spatial_dims=d, in_channels=1, num_classes=3, **options)


def _flexible(backbone: str) -> Callable[[int], nn.Module]:
    return lambda d: nets.FlexibleUNet(
        1, 2, backbone, spatial_dims=d, decoder_channels=(64, 32, 16, 16, 8), pretrained=False
    )


def _vit(**options: Any) -> Callable[[int], nn.Module]:
    return lambda d: nets.ViT(
        1, [16] * d, 4, hidden_size=24, mlp_dim=64, num_layers=2, num_heads=4, spatial_dims=d, **options
    )


def _dints(d: int) -> nn.Module:
    topology = nets.TopologyInstance(
        channel_mul=0.25, num_blocks=4, num_depths=3, use_downsample=True, spatial_dims=d
    )
    return nets.DiNTS(topology, 1, 2, spatial_dims=d)


_STRIDED = {"channels": (8, 16, 32), "strides": (2, 2, 2)}

FULL = {
    "ResNet50": (3,),
    "SEResNet50": (3,),
    "SEResNext50": (2, 3),
    "DenseNet121": (3,),
    "BasicUNetPlusPlus": (3,),
    "BasicUNetPlusPlus, deep supervision": (3,),
    "VNet": (3,),
    "FlexibleUNet, efficientnet-b0": (3,),
    "FlexibleUNet, resnet18": (3,),
    "HoVerNet": (2,),
    "UNETR": (3,),
    "DiNTS": (3,),
    "HighResNet": (3,),
    "ResNet18": (3,),
    "SENet154": (2, 3),
    "SwinUNETR": (3,),
}
"""Too slow for every run."""


class _First(nn.Module):
    """A network that returns the first of another's results alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x)[0]


HIDDEN = "returns hidden states, so the embedding's width is the output's and stays; attention and MLPs go"

ZOO: dict[str, Entry] = {
    "ResNet18": Entry(lambda d: nets.resnet18(spatial_dims=d, n_input_channels=1, num_classes=3), 17),
    "ResNet50": Entry(lambda d: nets.resnet50(spatial_dims=d, n_input_channels=1, num_classes=3), 17),
    "SEResNet50": Entry(_senet(nets.SEResNet50)),
    "SEResNext50": Entry(_senet(nets.SEResNext50)),
    "SENet154": Entry(_senet(SENet154)),
    "DenseNet121": Entry(lambda d: nets.DenseNet121(d, 1, 3)),
    "EfficientNetBN-b0": Entry(
        lambda d: nets.EfficientNetBN("efficientnet-b0", False, spatial_dims=d, in_channels=1, num_classes=3)
    ),
    "HighResNet": Entry(lambda d: nets.HighResNet(d, 1, 2), 16),
    "UNet, instance norm": Entry(_unet(), 16),
    "UNet, 2 residual units, batch norm": Entry(_unet(num_res_units=2, norm="batch"), 16),
    "UNet, 2 residual units, group norm": Entry(
        _unet(num_res_units=2, norm=("group", {"num_groups": 2})),
        16,
        least=0.65,
        why="half of the channels stay with the one of two groups that every norm keeps",
    ),
    "BasicUNet": Entry(_basic(nets.BasicUNet)),
    "BasicUNetPlusPlus": Entry(_basic(nets.BasicUNetPlusPlus)),
    "BasicUNetPlusPlus, deep supervision": Entry(_basic(nets.BasicUNetPlusPlus, deep_supervision=True)),
    "DynUNet": Entry(_dynunet()),
    "DynUNet, residual": Entry(_dynunet(res_block=True)),
    "DynUNet, deep supervision": Entry(_dynunet(deep_supervision=True, deep_supr_num=2)),
    "SegResNetDS": Entry(lambda d: nets.SegResNetDS(d, 8, 1, 2, dsdepth=3), 32),
    "SegResNetVAE": Entry(
        lambda d: nets.SegResNetVAE([16] * d, spatial_dims=d, in_channels=1, vae_nz=16),
        16,
    ),
    "SegResNetVAE, vae_fc2 dropped": Entry(
        lambda d: nets.SegResNetVAE([16] * d, spatial_dims=d, in_channels=1, vae_nz=16), 16, drop=("vae_fc2",)
    ),
    "AttentionUnet": Entry(lambda d: nets.AttentionUnet(d, 1, 2, (8, 16, 32), (2, 2)), 16),
    "VNet": Entry(lambda d: nets.VNet(d, 1, 2, dropout_dim=d), 32),
    "FlexibleUNet, efficientnet-b0": Entry(_flexible("efficientnet-b0")),
    "FlexibleUNet, resnet18": Entry(_flexible("resnet18")),
    "ViT": Entry(_vit(), 16, least=0.65, why=HIDDEN),
    "ViT, classification": Entry(
        _vit(classification=True, num_classes=3),
        16,
        least=0.65,
        why=f"{HIDDEN}; in a module that returns the scores alone (next row) the embedding goes, too",
    ),
    "ViT, classification, scores alone": Entry(
        lambda d: _First(_vit(classification=True, num_classes=3)(d)), 16
    ),
    "UNETR": Entry(
        lambda d: nets.UNETR(1, 2, [32] * d, 8, hidden_size=48, mlp_dim=96, num_heads=4, spatial_dims=d)
    ),
    "SwinUNETR": Entry(
        lambda d: nets.SwinUNETR(1, 2, depths=(1, 1, 1, 1), window_size=4, feature_size=12, spatial_dims=d),
        64,
    ),
    "MedNeXt": Entry(
        lambda d: nets.MedNeXt(
            d, 8, 1, 2, kernel_size=3, blocks_down=(1,) * 4, blocks_bottleneck=1, blocks_up=(1,) * 4
        )
    ),
    "MedNeXt, deep supervision": Entry(
        lambda d: nets.MedNeXt(
            d,
            8,
            1,
            2,
            kernel_size=3,
            blocks_down=(1,) * 4,
            blocks_bottleneck=1,
            blocks_up=(1,) * 4,
            deep_supervision=True,
        )
    ),
    "Discriminator": Entry(lambda d: nets.Discriminator((1, *[32] * d), **_STRIDED)),
    "Regressor": Entry(lambda d: nets.Regressor((1, *[32] * d), 3, **_STRIDED)),
    "Classifier": Entry(lambda d: nets.Classifier((1, *[32] * d), 3, **_STRIDED)),
    "AutoEncoder": Entry(
        lambda d: nets.AutoEncoder(d, 1, 1, num_inter_units=2, inter_channels=[8, 8], **_STRIDED)
    ),
    "HoVerNet": Entry(lambda d: nets.HoVerNet("fast", 3, out_classes=3), 256, (2,), inputs=3),
    "Quicknat": Entry(lambda d: nets.Quicknat(3, 1, 16), 32, (2,)),
    "DiNTS": Entry(_dints, 32),
    "nnU-Net PlainConvUNet": Entry(_nnunet(PlainConvUNet, "n_conv_per_stage", False)),
    "nnU-Net PlainConvUNet, deep supervision": Entry(_nnunet(PlainConvUNet, "n_conv_per_stage", True)),
    "nnU-Net ResidualEncoderUNet": Entry(_nnunet(ResidualEncoderUNet, "n_blocks_per_stage", False)),
    "nnU-Net ResidualEncoderUNet, deep supervision": Entry(
        _nnunet(ResidualEncoderUNet, "n_blocks_per_stage", True)
    ),
    "MobileNetV2": Entry(lambda d: handwritten.MobileNet(d, 2)),
    "MobileNetV3": Entry(lambda d: handwritten.MobileNet(d, 3)),
    "ConvNeXt, norms channels last": Entry(lambda d: handwritten.ConvNeXt(d, False)),
    "ConvNeXt, norms channels first": Entry(
        lambda d: handwritten.ConvNeXt(d, True),
        least=0.35,
        why="its own layer norm takes means over channels, so those stay; with nn.LayerNorm they go",
    ),
    "nn.TransformerEncoder": Entry(lambda d: handwritten.TorchTransformer(d, False), 32),
    "nn.TransformerEncoder, norms first": Entry(lambda d: handwritten.TorchTransformer(d, True), 32),
    "nn.MultiheadAttention in a U": Entry(handwritten.AttentionBottleneck),
    "scaled_dot_product_attention": Entry(handwritten.FusedTransformer, 32),
    "Siamese, two images, dictionary": Entry(handwritten.Siamese, 16, images=2),
    "Python loop": Entry(handwritten.Recurrent, 16),
    "tied weights": Entry(handwritten.TiedAutoEncoder, 16),
    "ShuffleNet": Entry(handwritten.ShuffleNet),
    "pixel shuffle": Entry(lambda d: handwritten.SuperResolution(), 16, (2,)),
    "control flow on values": Entry(handwritten.EarlyExit, 16),
    "weight_norm and spectral_norm": Entry(handwritten.Reparametrised, 16),
}
