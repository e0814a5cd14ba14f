"""Packages that only some ways of running a network need: whether they are there, and what to say if they are not."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from actionfusion.errors import RuntimeUnavailable


def is_installed(package: str) -> bool:
    """Whether a package can be found; it is not imported."""
    return find_spec(package) is not None


def needed(*packages: str, extra: str) -> None:
    """See that packages are installed.

    Raises:
        RuntimeUnavailable: one is not; names the extra of ours that brings it.
    """
    for package in packages:
        if not is_installed(package):
            raise RuntimeUnavailable(package, "is not installed", f"pip install 'actionfusion[{extra}]'")


@cache
def version_of(package: str) -> str:
    """The installed version, without its local part (``+cpu``); empty if there is none."""
    try:
        return version(package).split("+", maxsplit=1)[0]
    except PackageNotFoundError:
        return ""
