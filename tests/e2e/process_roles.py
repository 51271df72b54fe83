"""What the processes of test_python_processes.py run: spawned ones import it by its name."""

import numpy as np
import torch


class Named(torch.utils.data.Dataset):
    """Reads rows of a tensor through a handle and by its name, as a training script would."""

    def __init__(self, client, handle):
        self.client, self.handle = client, handle

    def __len__(self):
        return self.handle.shape[0]

    def __getitem__(self, row):
        by_name = self.client["rows"].torch()[row]
        by_handle = self.handle.torch()[row]
        assert torch.equal(by_name, by_handle)
        return by_handle, torch.utils.data.get_worker_info().id


def total(value):
    """Of anything that has numpy()."""
    return float(value.numpy().sum())


def told(action, *arguments):
    """The name and text of what an action raises."""
    try:
        return "done", action(*arguments)
    except Exception as error:
        return type(error).__name__, str(error)


def through_queue(inbox, outbox):
    """Sums what comes, until None."""
    while (value := inbox.get()) is not None:
        outbox.put(told(total, value))


def publish_filled(client, name, value):
    with client.allocate(50_000) as memory:
        memory.array[:] = value
        memory.publish(name)
    return np.asarray(client[name])[0] == value
