"""The device that a network works on: the one asked for, if this machine has it."""

from __future__ import annotations

import torch

from actionfusion.errors import SettingsError


def find_device(name: str | None = None) -> torch.device:
    """Find a device of this machine.

    Args:
        name: cpu, cuda, cuda:1, mps; None takes a GPU where there is one.

    Raises:
        SettingsError: there is none of this name; those that there are are listed.
    """
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    there += ["mps"] if torch.backends.mps.is_available() else []
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name in there or (name == "cuda" and "cuda:0" in there):
        return torch.device(name)
    try:
        device = torch.device(name)
        if device.type in {"cuda", "mps", "meta"}:
            raise ValueError(name)  # noqa: TRY301
        torch.empty(1, device=device)
    except (RuntimeError, ValueError, AssertionError, NotImplementedError, ImportError) as error:
        remedy = f"take {' or '.join(there)}, or leave --device out"
        raise SettingsError("device", f"this machine has no {name!r}", remedy) from error
    return device
