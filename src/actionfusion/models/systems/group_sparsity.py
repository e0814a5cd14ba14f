"""Choose few groups of a dictionary that rebuild a thing: group lasso, by vectors or by kernels alone.

Source: Yuan and Lin 2006 (group lasso); Beck and Teboulle 2009 (accelerated proximal gradient).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_ROUNDS = 100


def group_codes(
    gram: Tensor,
    products: Tensor,
    groups: Tensor,
    number: int,
    strength: Tensor | float,
    *,
    largest: Tensor | None = None,
) -> Tensor:
    """Minimise ``w' K w / 2 - k' w + sum over groups of strength * sqrt(size) * |w_g|`` for several things.

    Args:
        gram: K, ``[N, N]``, of the dictionary.
        products: k, ``[N, B]``, of the dictionary with each thing.
        groups: ``[N]`` the group of each entry, from 0.
        number: of groups.
        strength: of the penalty.
        largest: the largest eigenvalue of K, where it is known; else it is found by an SVD.

    Returns:
        w, ``[N, B]``; whole groups of it are exactly zero.
    """
    member = F.one_hot(groups, number).to(gram.dtype)
    weights = member.sum(0).sqrt()[:, None] * strength
    largest = largest_eigenvalue(gram) if largest is None else largest
    step = 1 / largest.clamp(min=1e-9)
    codes, ahead, moment = torch.zeros_like(products), torch.zeros_like(products), 1.0
    for _ in range(_ROUNDS):
        before = codes
        codes = ahead - step * (gram @ ahead - products)
        lengths = (member.T @ codes.square()).sqrt()
        codes = codes * (member @ (1 - step * weights / lengths.clamp(min=1e-12)).clamp(min=0))
        following = (1 + (1 + 4 * moment**2) ** 0.5) / 2
        ahead, moment = codes + (moment - 1) / following * (codes - before), following
    return codes


def largest_eigenvalue(gram: Tensor) -> Tensor:
    """Find the largest eigenvalue of a positive semidefinite ``[N, N]``."""
    largest: Tensor = torch.linalg.matrix_norm(gram, 2)
    return largest


def group_residuals(gram: Tensor, products: Tensor, groups: Tensor, codes: Tensor, number: int) -> Tensor:
    """Measure how badly each group alone rebuilds a thing whose kernel with itself is 1, ``[B, number]``.

    Args:
        gram: ``[N, N]``.
        products: ``[N, B]``.
        groups: ``[N]``.
        codes: ``[N, B]`` of `group_codes`.
        number: of groups; one without entries has 1.
    """
    alone = (codes * (groups == group)[:, None] for group in range(number))
    return torch.stack([1 - 2 * (own * products).sum(0) + (own * (gram @ own)).sum(0) for own in alone], 1)
