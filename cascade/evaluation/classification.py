"""A classifier of features as a judge of samples: taught on them and asked about photographs, and the other way round.

The classification accuracy score (CAS; Ravuri & Vinyals 2019, "Classification accuracy score for conditional generative
models") is the accuracy on photographs of a classifier that has seen nothing but samples: it falls where samples are
of the wrong class, and where they lack what the class's photographs have. Its sibling, a classifier taught on
photographs and asked about samples, falls for the first reason alone. Here both are logistic regressions on the
features of a frozen network, which makes them cheap, convex, and the same each time.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cascade.errors import CascadeError
from cascade.rng import permutation

STRENGTHS = (0.3, 0.1, 0.03, 0.01, 0.003)
"""The regularisations that cross-validation chooses from, strongest first."""
ITERATIONS = 100


@dataclass(frozen=True)
class LogisticClassifier:
    """logits = Wᵀ(x − mean)/scale + b, float64: W (d, K), b (K,), mean and scale (d,) those of the pictures it was
    taught on.

    >>> one = torch.ones(2, dtype=torch.float64)
    >>> LogisticClassifier(torch.eye(2, dtype=torch.float64), 0 * one, 0 * one, one)(torch.tensor([[2.0, 3.0]]))
    tensor([[2., 3.]], dtype=torch.float64)
    """

    weights: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """features (N, d) → logits (N, K)."""
        return (features.double() - self.mean) / self.scale @ self.weights + self.bias


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, strength: float, start: LogisticClassifier | None = None
) -> LogisticClassifier:
    """Return the minimum of Σ_i w_i·(−ln p(label_i | x_i)) + strength/2·‖W‖² over W and b, by L-BFGS from 0 or `start`.

    The features are brought to mean 0 and variance 1 first. w_i = 1/(K'·n_c), n_c the pictures of i's class and K' the
    classes that there are: all classes weigh alike, so a classifier taught on as many samples of each class can be
    asked about photographs that are of some classes more often. The objective is convex and its minimum unique in W.

    features (N, d), labels (N,) int64 in [0, num_classes). Raises CascadeError for no pictures, and for a strength that
    is not above 0.

    >>> x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    >>> fit_logistic(x, torch.tensor([0, 0, 1, 1]), 2, strength=0.01)(torch.tensor([[-3.0], [0.5]])).argmax(1)
    tensor([0, 1])
    """
    if len(features) == 0 or len(features) != len(labels):
        raise CascadeError(f"{len(features)} pictures with {len(labels)} labels teach nothing")
    if not 0 < strength < math.inf:
        raise CascadeError(f"the strength of the regularisation must be above 0, not {strength}")
    x = features.detach().to("cpu", torch.float64)
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    x = (x - mean) / scale
    counts = torch.bincount(labels, minlength=num_classes).double()
    weight = 1 / (counts[labels] * (counts > 0).sum())
    parameters = torch.zeros(x.shape[1] + 1, num_classes, dtype=torch.float64)
    if start is not None:
        parameters[:-1], parameters[-1] = start.weights, start.bias
    parameters.requires_grad_()
    # Only to a fixed number of iterations: no clock and no chance decides where it ends.
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=1e-8,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = x @ parameters[:-1] + parameters[-1]
        loss = (weight * cross_entropy(logits, labels, reduction="none")).sum()
        loss = loss + strength / 2 * parameters[:-1].square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    fitted = parameters.detach()
    return LogisticClassifier(fitted[:-1], fitted[-1], mean, scale)


def choose_strength(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    folds: int = 5,
) -> float:
    """Return the strength whose classifiers give the pictures they were not taught on the least cross entropy.

    The pictures are cut, in an order drawn from `seed`, into `folds` parts, each of which is left out once; classes
    weigh alike. Raises CascadeError for fewer pictures than parts.

    >>> x = torch.tensor([[-1.0], [-2.0], [1.0], [2.0]])
    >>> choose_strength(x, torch.tensor([0, 0, 1, 1]), 2, seed=0, strengths=(100.0, 0.01), folds=2)
    0.01
    """
    if not 2 <= folds <= len(features):
        raise CascadeError(f"{len(features)} pictures cannot be cut into {folds} parts: 2 to as many as there are")
    counts = torch.bincount(labels, minlength=num_classes).double()
    weight = 1 / counts[labels]
    losses = torch.zeros(len(strengths), dtype=torch.float64)
    parts = permutation("cross-validation", seed, size=len(features)).tensor_split(folds)
    for part in parts:
        kept = torch.ones(len(features), dtype=torch.bool)
        kept[part] = False
        fitted = None
        for i, strength in enumerate(strengths):  # each from the last one's minimum, which is near
            fitted = fit_logistic(features[kept], labels[kept], num_classes, strength, fitted)
            losses[i] += (weight[part] * cross_entropy(fitted(features[part]), labels[part], reduction="none")).sum()
    return strengths[int(losses.argmin())]


@dataclass(frozen=True)
class Accuracy:
    """`right` of `count` pictures: their share, and its binomial standard error √(p(1 − p)/N).

    >>> accuracy = Accuracy(9, 100)
    >>> accuracy.value, round(accuracy.standard_error, 4)
    (0.09, 0.0286)
    """

    right: int
    count: int

    @property
    def value(self) -> float:
        """The share p."""
        return self.right / self.count

    @property
    def standard_error(self) -> float:
        """√(p(1 − p)/N)."""
        return math.sqrt(self.value * (1 - self.value) / self.count)


def accuracy(classifier: LogisticClassifier, features: Tensor, labels: Tensor) -> Accuracy:
    """How often the likeliest class of `features` (N, d) is the label, (N,)."""
    return Accuracy(int((classifier(features).argmax(1) == labels).sum()), len(labels))


def ratio(one: Accuracy, other: Accuracy) -> tuple[float, float]:
    """Return one/other and its standard error by the delta method: r·√((1 − p)/(pN) + (1 − q)/(qM)); 0 errors at p = 0.

    >>> value, error = ratio(Accuracy(50, 100), Accuracy(80, 100))
    >>> round(value, 3), round(error, 4)
    (0.625, 0.0699)
    """
    if other.right == 0:
        raise CascadeError("a classifier that is never right cannot be compared with: its accuracy is 0")
    value = one.value / other.value
    parts = [(1 - a.value) / (a.value * a.count) for a in (one, other) if a.right]
    return value, value * math.sqrt(sum(parts))
