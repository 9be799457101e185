"""Blocks that several chapters share."""

from medtutor.nn.unet import UNet

__all__ = ["UNet"]
