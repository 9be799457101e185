"""The plain U-Net: the baseline of the segmentation chapters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv_block(inputs: int, outputs: int, dim: int = 2) -> nn.Sequential:
    """Twice (3x3 convolution, batch norm, ReLU): (B, inputs, *S) -> (B, outputs, *S)."""
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dim == 2 else (nn.Conv3d, nn.BatchNorm3d)
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [conv(width, outputs, 3, padding=1, bias=False), norm(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder, decoder, and skips between equal scales (Ronneberger et al. 2015), with padded convolutions and batch
    norm, so that output and input have one size.

    `channels` are the widths from the finest scale to the coarsest; each scale halves the size, so the input's sides
    must be divisible by 2 ** (len(channels) - 1). `dim` is 2 or 3. Input (B, in_channels, *S), output logits
    (B, classes, *S).
    """

    def __init__(self, in_channels: int, classes: int, channels: tuple[int, ...] = (16, 32, 64), dim: int = 2):
        super().__init__()
        conv, up, pool = ((nn.Conv2d, nn.ConvTranspose2d, nn.MaxPool2d) if dim == 2 else
                          (nn.Conv3d, nn.ConvTranspose3d, nn.MaxPool3d))
        widths = (in_channels, *channels)
        self.encoder = nn.ModuleList(conv_block(a, b, dim) for a, b in zip(widths, channels, strict=False))
        self.pool = pool(2)
        self.up = nn.ModuleList(up(b, a, 2, stride=2) for a, b in zip(channels, channels[1:], strict=False))
        self.decoder = nn.ModuleList(conv_block(2 * a, a, dim) for a in channels[:-1])
        self.head = conv(channels[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        divisor = 2 ** len(self.up)
        if any(side % divisor for side in x.shape[2:]):
            raise ValueError(f"every side of {tuple(x.shape[2:])} must be divisible by {divisor}: pad or resize")
        skips = []
        for scale, block in enumerate(self.encoder):
            x = block(self.pool(x) if scale else x)
            skips.append(x)
        for up, block, skip in zip(reversed(self.up), reversed(self.decoder), reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        return self.head(x)
