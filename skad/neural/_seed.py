"""Seeds and devices."""

from contextlib import contextmanager
from threading import RLock

import numpy as np
import torch
from sklearn.utils import check_random_state

__all__ = ["choose_device", "draw_seed", "seeded"]

# torch has one global generator a process, which layers draw their weights from.
_GLOBAL_GENERATOR = RLock()


def draw_seed(random_state):
    """Give a seed from a `random_state`; None is fresh entropy, not the global state."""
    if random_state is None:
        return int(np.random.default_rng().integers(2**31 - 1))
    return int(check_random_state(random_state).randint(2**31 - 1))


@contextmanager
def seeded(seed, device="cpu"):
    """Seed torch within the block, and leave its global states as they were.

    Gradients are on in the block, whatever mode it is entered in. Other threads that draw
    from torch's generator meanwhile share its stream.
    """
    on_gpu = torch.device(device).type == "cuda"
    with (
        _GLOBAL_GENERATOR,
        torch.random.fork_rng(devices=[device] if on_gpu else []),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def choose_device(device):
    """Resolve a `device` parameter; "auto" is a GPU where there is one.

    Raises
    ------
    ValueError
        If torch does not know the device, or there is none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found).cpu()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(f"device={device!r} can't be used: {error}") from error
    return found
