"""Encode the local descriptors of a clip, however many, as one vector: a bag of words, or Fisher vectors.

    descriptors [B, M, D], rows of zeros being none --each channel's vocabulary--> [B, F]

A vocabulary is found from descriptors of training clips alone.  Encoding is PyTorch, and finding scikit-learn.

Sources: Csurka et al. 2004 (bags of words); Perronnin, Sanchez and Mensink 2010 (improved Fisher vectors).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from actionfusion.errors import DatasetError

_ROUNDS = 100


class BagOfWords(nn.Module):
    """Count of which word each descriptor is nearest to.

    Args:
        width: D of a descriptor.
        words: V.
    """

    words: Tensor

    def __init__(self, width: int, words: int) -> None:
        super().__init__()
        self.register_buffer("words", torch.randn(words, width))

    @property
    def width(self) -> int:
        """V, the width of an encoded clip."""
        return len(self.words)

    def forward(self, descriptors: Tensor, there: Tensor) -> Tensor:
        """Make histograms ``[B, V]`` of descriptors ``[B, M, D]``, whose sum is 1, or 0 where none is ``there``."""
        nearest = torch.stack(
            [(self.words.square().sum(1) - 2 * clip @ self.words.T).argmin(1) for clip in descriptors]
        )
        counts = F.one_hot(nearest, self.width).to(descriptors.dtype) * there
        return F.normalize(counts.sum(1), p=1, dim=1)

    @torch.no_grad()
    def solve(self, descriptors: Tensor) -> None:
        """Find the words from descriptors ``[n, D]``.

        Raises:
            DatasetError: fewer than words.
        """
        from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415  It takes a second.

        _refuse_few(descriptors, self.width, "words")
        found = MiniBatchKMeans(self.width, random_state=0, n_init=3, batch_size=max(4 * self.width, 1024))
        self.words.copy_(torch.from_numpy(found.fit(descriptors.double().cpu().numpy()).cluster_centers_))


class FisherVectors(nn.Module):
    """How descriptors would move the means and variances of a mixture of Gaussians.

    Args:
        width: D of a descriptor.
        gaussians: K.
    """

    mean: Tensor
    axes: Tensor
    log_shares: Tensor
    centers: Tensor
    log_variances: Tensor

    def __init__(self, width: int, gaussians: int) -> None:
        super().__init__()
        kept = max(width // 2, 1)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", nn.init.orthogonal_(torch.empty(kept, width)))
        self.register_buffer("log_shares", torch.zeros(gaussians))
        self.register_buffer("centers", torch.randn(gaussians, kept))
        self.register_buffer("log_variances", torch.zeros(gaussians, kept))

    @property
    def width(self) -> int:
        """2 * K * D', the width of an encoded clip; D' is half of D."""
        return 2 * self.centers.numel()

    def forward(self, descriptors: Tensor, there: Tensor) -> Tensor:
        """Make vectors ``[B, 2 * K * D']`` of descriptors ``[B, M, D]``, their roots taken, of length 1 or 0."""
        return torch.stack([self._vector(*clip) for clip in zip(descriptors, there, strict=True)])

    def _vector(self, descriptors: Tensor, there: Tensor) -> Tensor:
        """Make the vector of one clip ``[M, D]``; ``there`` ``[M, 1]`` is 1 for the rows that are descriptors."""
        reduced, shares = (descriptors - self.mean) @ self.axes.T, self.log_shares.softmax(0)[:, None]
        posteriors = self.log_densities(reduced).softmax(1) * there
        sums, firsts, seconds = posteriors.sum(0)[:, None], posteriors.T @ reduced, posteriors.T @ reduced.square()
        means = (firsts - sums * self.centers) * (-self.log_variances / 2).exp() / shares.sqrt()
        squares = (seconds - 2 * firsts * self.centers + sums * self.centers.square()) * (-self.log_variances).exp()
        spreads = (squares - sums) / (2 * shares).sqrt()
        vector = torch.cat((means, spreads)).flatten() / there.sum().clamp(min=1)
        return F.normalize(vector.sign() * vector.abs().sqrt(), dim=0)

    def log_densities(self, reduced: Tensor) -> Tensor:
        """Compute the log-density ``[n, K]`` of each Gaussian times its share, but for a constant, at ``[n, D']``."""
        inverse = (-self.log_variances).exp()
        squares = reduced.square() @ inverse.T - 2 * reduced @ (inverse * self.centers).T
        squares = squares + (inverse * self.centers.square()).sum(1)
        return self.log_shares.log_softmax(0) - (squares + self.log_variances.sum(1)) / 2

    @torch.no_grad()
    def solve(self, descriptors: Tensor) -> None:
        """Find axes and Gaussians from descriptors ``[n, D]``.

        Raises:
            DatasetError: fewer than Gaussians or axes.
        """
        from sklearn.decomposition import PCA  # noqa: PLC0415  It takes a second.
        from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415
        from sklearn.mixture import GaussianMixture  # noqa: PLC0415

        _refuse_few(descriptors, max(len(self.centers), len(self.axes)), "Gaussians or axes")
        given = descriptors.double().cpu().numpy()
        axes = PCA(len(self.axes), svd_solver="full").fit(given)
        mixture = GaussianMixture(len(self.centers), covariance_type="diag", random_state=0, max_iter=_ROUNDS)
        with warnings.catch_warnings():
            # Fisher vectors do not need the last digit of the mixture.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(axes.transform(given))
        # A Gaussian that no descriptor is near would be divided by.
        shares, variances = np.log(np.maximum(mixture.weights_, 1e-6)), np.log(mixture.covariances_)
        found = (axes.mean_, axes.components_, shares, mixture.means_, variances)
        own = (self.mean, self.axes, self.log_shares, self.centers, self.log_variances)
        for tensor, values in zip(own, found, strict=True):
            tensor.copy_(torch.from_numpy(values))


class ChannelEncoder(nn.Module):
    """Encode each channel of descriptors by a vocabulary of its own.

    Args:
        widths: of the channels by name; their sum is D.
        make: makes the vocabulary of a width.
    """

    def __init__(self, widths: Mapping[str, int], make: Callable[[int], BagOfWords | FisherVectors]) -> None:
        super().__init__()
        self.widths = tuple(widths.values())
        self.channels = nn.ModuleDict({name: make(width) for name, width in widths.items()})

    @property
    def width(self) -> int:
        """F, the width of an encoded clip, the channels side by side."""
        return sum(channel.width for channel in self._vocabularies())

    def _vocabularies(self) -> list[BagOfWords | FisherVectors]:
        return [cast("BagOfWords | FisherVectors", channel) for channel in self.channels.values()]

    def forward(self, descriptors: Tensor) -> Tensor:
        """Encode descriptors ``[B, M, D]`` as ``[B, F]``; rows of zeros are none."""
        there = descriptors.any(-1, keepdim=True).to(descriptors.dtype)
        parts = zip(self._vocabularies(), torch.split_with_sizes(descriptors, self.widths, -1), strict=True)
        return torch.cat([channel(part, there) for channel, part in parts], -1)

    def solve(self, descriptors: Tensor, most: int) -> None:
        """Find the vocabularies from at most so many descriptors of ``[N, M, D]``, evenly from all.

        Raises:
            DatasetError: too few of them.
        """
        flat = descriptors.flatten(0, 1)
        rows = flat.any(-1).nonzero()[:, 0]
        chosen = torch.linspace(0, len(rows) - 1, min(len(rows), most), dtype=torch.float64).long()
        some = flat[rows[chosen]].float()
        for channel, part in zip(self._vocabularies(), torch.split_with_sizes(some, self.widths, -1), strict=True):
            channel.solve(part)


def _refuse_few(descriptors: Tensor, least: int, what: str) -> None:
    if len(descriptors) < least:
        reason = f"gives {len(descriptors)} local descriptors, and {least} {what} are to be found"
        raise DatasetError("the training part", reason, "take more or larger clips, or a smaller vocabulary")
