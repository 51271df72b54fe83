"""PyTorch's torch.cuda, as far as it is about what there is."""

from tensord import defaults


def device_count() -> int:
    """The number of GPUs that the default client's daemon uses; 0 where no daemon answers."""
    return sum(1 for device in defaults.devices() if device.startswith("cuda"))


def is_available() -> bool:
    """True if the default client's daemon has a GPU."""
    return device_count() > 0
