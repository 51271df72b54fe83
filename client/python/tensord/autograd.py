"""PyTorch 0.2's torch.autograd: where Variable was imported from."""

from tensord.tensor import Variable

__all__ = ["Variable"]
