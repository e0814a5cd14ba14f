"""Packages that only some runtimes need: whether they are installed, and the error if they are not."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from actionfusion.errors import RuntimeUnavailable


def is_installed(package: str) -> bool:
    """Return whether a package is installed, without importing it."""
    return find_spec(package) is not None


def needed(*packages: str, extra: str) -> None:
    """Check that packages are installed.

    Raises:
        RuntimeUnavailable: one is not; the message names the extra that installs it.
    """
    for package in packages:
        if not is_installed(package):
            raise RuntimeUnavailable(package, "is not installed", f"pip install 'actionfusion[{extra}]'")


@cache
def version_of(package: str) -> str:
    """Return the installed version without its local part (``+cpu``); empty if there is none."""
    try:
        return version(package).split("+", maxsplit=1)[0]
    except PackageNotFoundError:
        return ""
