"""Can two sets of pictures be told apart? A linear probe on their features, asked about pictures it was not taught on.

Its area under the ROC curve (AUC) is the share of pairs, one picture of each set, in which it gives the picture of the
first set the higher score: ½ where it cannot tell, 1 where it always can. Noise on both sets takes it to ½: the least
noise that does is where a super-resolution stage no longer sees what is wrong with the pictures of the stage before
(Ho et al. 2022, "Cascaded Diffusion Models", section 4, choose that level by FID).
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cascade.errors import CascadeError
from cascade.evaluation.classification import STRENGTHS, LogisticClassifier, fit_logistic
from cascade.evaluation.jackknife import Estimate
from cascade.rng import permutation

FIRST, SECOND = "first", "second"
"""The names of the two sets in the estimates."""
FOLDS = 5


def area_under_curve(first: Tensor, second: Tensor) -> tuple[float, Tensor, Tensor]:
    """P(a > b) + ½·P(a = b) for scores a of `first` (n,) and b of `second` (m,); the same of each a, (n,), and b, (m,).

    The Mann–Whitney statistic, and its structural components: DeLong et al. 1988, "Comparing the Areas under Two or
    More Correlated ROC Curves", Eq. 3 and 4.

    >>> area_under_curve(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 0.0]))[0]
    0.875
    """
    pairs = (first[:, None] > second).double() + (first[:, None] == second).double() / 2
    return pairs.mean().item(), pairs.mean(1), pairs.mean(0)


def probe_auc(
    first: Tensor,
    second: Tensor,
    *,
    seed: int,
    folds: int = FOLDS,
    strengths: Sequence[float] = STRENGTHS,
) -> Estimate:
    """The AUC of a logistic regression between features (n, d) and (m, d), cross-validated, with its standard error.

    Both sets are cut into `folds` parts, in an order drawn from `seed`. Each part in turn is asked about; the one after
    it chooses among `strengths` the regularisation of least cross entropy, and those left teach. The AUC is the mean of
    the parts', whose scores are of different probes and are not compared with each other; its error is the jackknife's
    over pictures (DeLong's), in which the probes are given.
    Raises CascadeError for fewer than 3 parts, or fewer than two pictures for each.

    >>> x = torch.arange(12.0)[:, None]
    >>> probe_auc(x + 100, x, seed=0, folds=3, strengths=(0.1,)).value
    1.0
    """
    if folds < 3:
        raise CascadeError(f"folds={folds}: one part is asked about, one chooses and the others teach, so 3 or more")
    if min(len(first), len(second)) < 2 * folds:
        raise CascadeError(
            f"{len(first)} and {len(second)} pictures are too few for {folds} parts of two of each or more"
        )
    parts = [
        permutation("probe", seed, name, size=len(x)).tensor_split(folds)
        for name, x in ((FIRST, first), (SECOND, second))
    ]
    value, moved = 0.0, [torch.zeros(len(x), dtype=torch.float64) for x in (first, second)]
    for k in range(folds):
        asked, choose = ([of[place % folds] for of in parts] for place in (k, k + 1))
        teach = [torch.cat([of[i] for i in range(folds) if i not in (k, (k + 1) % folds)]) for of in parts]
        probe = _taught(_both(first, second, teach), _both(first, second, choose), strengths)
        scores = [_score(probe, x[places]) for x, places in zip((first, second), asked, strict=True)]
        auc, *shares = area_under_curve(scores[0], scores[1])
        value += auc / folds
        for of, places, share in zip(moved, asked, shares, strict=True):
            of[places] = (auc - share) / ((len(places) - 1) * folds)
    return Estimate(value, dict(zip((FIRST, SECOND), moved, strict=True)))


def told_apart(auc: Estimate) -> bool:
    """Whether an AUC lies above ½ by more than two of its errors.

    >>> told_apart(Estimate(0.5)), told_apart(Estimate(1.0))
    (False, True)
    """
    return (auc - Estimate(0.5)).beyond(2)


def start_level(aucs: Mapping[float, Estimate]) -> float | None:
    """The highest log-SNR of `aucs`, so the least noise, from which on nothing noisier is told apart; None: all are.

    >>> start_level({math.inf: Estimate(1.0), 6.0: Estimate(0.9), 3.0: Estimate(0.5), 0.0: Estimate(0.5)})
    3.0
    """
    found = None
    for log_snr in sorted(aucs):
        if told_apart(aucs[log_snr]):
            break
        found = log_snr
    return found


def _both(first: Tensor, second: Tensor, places: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Features and labels of some of both sets, the first's being 0."""
    labels = torch.cat([torch.full((len(of),), i) for i, of in enumerate(places)])
    return torch.cat([first[places[0]], second[places[1]]]), labels


def _taught(
    teach: tuple[Tensor, Tensor], choose: tuple[Tensor, Tensor], strengths: Sequence[float]
) -> LogisticClassifier:
    fitted, best, least = None, None, math.inf
    for strength in strengths:  # each from the last one's minimum, which is near
        fitted = fit_logistic(*teach, 2, strength, fitted)
        loss = cross_entropy(fitted(choose[0]), choose[1]).item()
        if best is None or loss < least:
            best, least = fitted, loss
    if best is None:
        raise CascadeError("a probe needs at least one strength of its regularisation")
    return best


def _score(probe: LogisticClassifier, features: Tensor) -> Tensor:
    """How much more like the first set, (n,)."""
    logits = probe(features)
    return logits[:, 0] - logits[:, 1]
