"""A linear probe on pooled features: what a classifier that is not trained yet could make of them, as a stand-in.

Ridge regression to one-hot labels in its dual form (n photos, whatever the width), each photo answered by the probe
that was fitted to the other folds; the factor that makes its scores probabilities has the least cross-entropy.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fmshards.augment.features.places import to_map
from fmshards.codec import FeatureSpec
from fmshards.planning.measure import Answers

LEAST = 16
"""Photos without which there is no probe."""
_FOLDS, _SIDE = 5, 2
_RIDGES = (1e-3, 1e-2, 1e-1, 1.0)  # of the kernel's mean diagonal
_FACTORS = tuple(2.0**k for k in range(8))


def probe_features(x: torch.Tensor, spec: FeatureSpec) -> torch.Tensor:
    """x [B, *shape] -> float32 [B, D] on the CPU: means over 2 x 2 parts of the places; class tokens and vectors as
    they are; of tokens without places the mean."""
    x = x.float()
    if spec.spatial is None:
        return (x.mean(1) if x.dim() == 3 else x).flatten(1).cpu()
    side = (min(_SIDE, spec.spatial[0]), min(_SIDE, spec.spatial[1]))
    parts = [F.adaptive_avg_pool2d(to_map(x, spec), side).flatten(1)]
    if spec.class_tokens:
        parts.append(x[:, : spec.class_tokens].flatten(1))
    return torch.cat(parts, 1).cpu()


def probe_answers(pooled: torch.Tensor, labels: torch.Tensor, seed: int) -> Answers:
    """What probes say of photos that they were not fitted to. pooled: float32 [n, D]; labels: int64 [n].

    The ridge is that of the most right answers, the largest of equal ones. Deterministic: folds are drawn by the seed.
    """
    n = len(labels)
    targets, classes = F.one_hot(torch.unique(labels, return_inverse=True)[1]).double(), torch.unique(labels)
    folds = torch.randperm(n, generator=torch.Generator().manual_seed(seed)) % _FOLDS
    x = pooled.double()
    x = x - x.mean(0)
    x = x / x.square().mean().sqrt().clamp_min(1e-30)
    kernel = x @ x.T
    scale = float(kernel.diagonal().mean())
    best, most = torch.zeros_like(targets), -1
    for ridge in _RIDGES:
        scores = _out_of_fold(kernel, targets, folds, ridge * scale)
        right = int((scores.argmax(1) == targets.argmax(1)).sum())
        if right >= most:
            best, most = scores, right
    nll = [float(F.cross_entropy(best * f, targets.argmax(1))) for f in _FACTORS]
    # Columns for all numbers up to the largest label, so that labels index them.
    wide = torch.full((n, int(classes.max()) + 1), -1e4, dtype=torch.float64)
    wide[:, classes] = best * _FACTORS[nll.index(min(nll))]
    return Answers.of(wide)


def _out_of_fold(kernel: torch.Tensor, targets: torch.Tensor, folds: torch.Tensor, ridge: float) -> torch.Tensor:
    scores = torch.zeros_like(targets)
    for fold in range(_FOLDS):
        inside, outside = (folds != fold).nonzero()[:, 0], (folds == fold).nonzero()[:, 0]
        mean = targets[inside].mean(0)
        gram = kernel[inside][:, inside] + ridge * torch.eye(len(inside), dtype=torch.float64)
        scores[outside] = mean + kernel[outside][:, inside] @ torch.linalg.solve(gram, targets[inside] - mean)
    return scores
