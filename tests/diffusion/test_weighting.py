"""Weightings: the papers' ratios, and the same objective whatever noise is drawn."""

import math
from itertools import combinations

import pytest
import torch
from torch.testing import assert_close

from cascade.diffusion import (
    Condition,
    CosineSchedule,
    EDMPreconditioning,
    EDMWeighting,
    ELBOWeighting,
    EpsPreconditioning,
    GaussianDenoiser,
    LinearBetaSchedule,
    LogNormalNoise,
    MinSNRWeighting,
    P2Weighting,
    ScheduleNoise,
    ShiftedSchedule,
    SigmoidSchedule,
    SigmoidWeighting,
    SimpleWeighting,
    TruncatedSNRWeighting,
    UnitWeighting,
    VPreconditioning,
    VWeighting,
    X0Preconditioning,
    X0Weighting,
    alpha_sigma,
    diffusion_loss,
)
from cascade.errors import CascadeError
from cascade.registry import TABLE, build

COSINE, LOG_NORMAL = ScheduleNoise(CosineSchedule()), LogNormalNoise()
LEVELS = torch.linspace(-12, 14, 53, dtype=torch.float64)
SNR = LEVELS.exp()
SIGMA = SNR.rsqrt()


def ratio(weighting):
    return weighting.log_ratio(LEVELS).exp()


# Each row in the paper's own variable. A weight on x̂ becomes one on ε by ‖x̂ − x‖² = ‖ε̂ − ε‖²/SNR.
PAPERS = {
    "unit": (UnitWeighting(COSINE), torch.ones_like(SNR)),
    "simple": (SimpleWeighting(COSINE), torch.ones_like(SNR)),
    "min-SNR 5, on x": (MinSNRWeighting(COSINE), SNR.clamp(max=5) / SNR),
    "min-SNR 0.3, on x": (MinSNRWeighting(LOG_NORMAL, gamma=0.3), SNR.clamp(max=0.3) / SNR),
    "EDM λ(σ), on x": (EDMWeighting(LOG_NORMAL, 0.5), (SIGMA**2 + 0.25) / (SIGMA * 0.5) ** 2 * SIGMA**2),
    "EDM at σ_d = 2, on x": (EDMWeighting(LOG_NORMAL, 2.0), (SIGMA**2 + 4) / (SIGMA * 2) ** 2 * SIGMA**2),
    "v, SNR + 1 on x": (VWeighting(COSINE), (SNR + 1) / SNR),
    "x0, SNR on x, less SNR": (X0Weighting(LOG_NORMAL), 1 / SNR),
    "truncated SNR on x": (TruncatedSNRWeighting(COSINE), SNR.clamp(min=1) / SNR),
    "truncated SNR on x, bounded": (TruncatedSNRWeighting(LOG_NORMAL, gamma=5.0), SNR.clamp(1, 5) / SNR),
    "P2 at k = 1, γ = 1": (P2Weighting(COSINE), 1 / (1 + SNR)),
    "P2 at k = 0.3, γ = 0.5": (P2Weighting(LOG_NORMAL, k=0.3, gamma=0.5), 1 / (0.3 + SNR).sqrt()),
    "ELBO": (ELBOWeighting(LOG_NORMAL), 1 / LOG_NORMAL.log_density(LEVELS).exp()),
    "sigmoid, SiD2 on x": (
        SigmoidWeighting(COSINE, bias=-2.0),
        math.exp(-2) * (LEVELS + 2).sigmoid() / SNR / COSINE.log_density(LEVELS).exp(),
    ),
}


@pytest.mark.parametrize("name", PAPERS)
def test_ratio_is_the_papers(name):
    weighting, expected = PAPERS[name]
    assert_close(ratio(weighting), expected, rtol=1e-11, atol=0)


# The papers' values, worked out by hand, at a signal-to-noise ratio; all on ε.
TABLES = {
    "simple": (SimpleWeighting(COSINE), {0.01: 1, 1: 1, 100: 1}),
    "v": (VWeighting(COSINE), {0.01: 101, 0.5: 3, 1: 2, 4: 1.25, 100: 1.01}),
    "x0": (X0Weighting(COSINE), {0.01: 100, 0.5: 2, 1: 1, 4: 0.25, 100: 0.01}),
    "truncated SNR": (TruncatedSNRWeighting(COSINE), {0.01: 100, 0.5: 2, 1: 1, 4: 1, 100: 1}),
    "truncated SNR, at most 5": (
        TruncatedSNRWeighting(COSINE, gamma=5),
        {0.01: 100, 1: 1, 4: 1, 5: 1, 10: 0.5, 100: 0.05},
    ),
    "min-SNR 5": (MinSNRWeighting(COSINE), {0.01: 1, 1: 1, 5: 1, 10: 0.5, 100: 0.05}),
    "P2": (P2Weighting(COSINE), {0.25: 0.8, 1: 0.5, 3: 0.25, 99: 0.01}),
    "P2, γ = ½": (P2Weighting(COSINE, gamma=0.5), {3: 0.5, 8: 1 / 3, 99: 0.1}),
    # λ(σ) = (σ² + ¼)/(½σ)² is 250 004, 8, 5 and 4.25 at σ = 0.002, ½, 1 and 2; on ε times σ².
    "EDM": (EDMWeighting(LOG_NORMAL), {250_000: 250_004 * 4e-6, 4: 2, 1: 5, 0.25: 17}),
}
SIGMOIDS = [(-3.0, -3.0, 0.5), (-1.0, 0.0, 0.2689414214), (0.0, math.log(3), 0.25), (-2.0, -2 - math.log(9), 0.9)]


@pytest.mark.parametrize("name", TABLES)
def test_values_of_the_papers(name):
    weighting, table = TABLES[name]
    level = torch.tensor([math.log(snr) for snr in table], dtype=torch.float64)
    assert weighting.log_ratio(level).exp().tolist() == pytest.approx(list(table.values()), rel=1e-9)


@pytest.mark.parametrize(("bias", "level", "weight"), SIGMOIDS)
def test_values_of_the_sigmoid_weight(bias, level, weight):
    ratio = SigmoidWeighting(COSINE, bias).log_ratio(torch.tensor([level], dtype=torch.float64))
    density = COSINE.log_density(torch.tensor([level], dtype=torch.float64))
    assert float((ratio + density).exp()) == pytest.approx(weight, rel=1e-9)


def _edm_target(x, eps, alpha, sigma):
    # F at which EDM's x̂ is x, with σ_E = σ/α (Karras et al., eq. 8).
    noise = sigma / alpha
    c_skip, c_out = 0.25 / (noise**2 + 0.25), 0.5 * noise / (noise**2 + 0.25).sqrt()
    return (x - c_skip * (x + noise * eps)) / c_out


@pytest.mark.parametrize(
    ("preconditioning", "target", "weighting"),
    [
        (EpsPreconditioning, lambda x, eps, *_: eps, SimpleWeighting),
        (X0Preconditioning, lambda x, *_: x, X0Weighting),
        (VPreconditioning, lambda x, eps, alpha, sigma: alpha * eps - sigma * x, VWeighting),
        (EDMPreconditioning, _edm_target, EDMWeighting),
    ],
    ids=["eps", "x0", "v", "edm"],
)
def test_the_named_weight_is_the_plain_square_of_that_networks_error(preconditioning, target, weighting, normal):
    x, eps, log_snr = normal(9, 6), normal(9, 6, name="eps"), torch.linspace(-9, 12, 9, dtype=torch.float64)
    answer = normal(9, 6, name="F")
    alpha, sigma = (c[:, None] for c in alpha_sigma(log_snr))
    loss = diffusion_loss(preconditioning(lambda *_, **__: answer), x, log_snr, eps, Condition(), weighting(LOG_NORMAL))
    assert_close(loss, (answer - target(x, eps, alpha, sigma)).square().mean(1), rtol=1e-9, atol=0)


def test_p2_and_truncated_snr_between_the_others():
    assert_close(ratio(P2Weighting(COSINE, gamma=0.0)), torch.ones_like(SNR))
    assert_close(ratio(P2Weighting(COSINE)) * ratio(VWeighting(COSINE)), 1 / SNR)
    assert_close(ratio(TruncatedSNRWeighting(COSINE)), torch.maximum(ratio(X0Weighting(COSINE)), torch.ones_like(SNR)))


@pytest.mark.parametrize("noise", [COSINE, LogNormalNoise(0.4, 2.0), ScheduleNoise(SigmoidSchedule())], ids=repr)
def test_the_elbos_integral_is_the_information_gained_in_nats(noise, integrate):
    # Guo, Shamai & Verdú 2005: dI/dλ = ½·E(ε − ε̂)², and for data N(0, s²) I = ½ ln(1 + s²e^λ). No Monte Carlo: for a
    # linear denoiser the expectation is the mean over x and ε each at √2 standard deviations, the other being 0.
    scale = 0.7
    oracle = GaussianDenoiser(torch.zeros(1, dtype=torch.float64), torch.full((1, 1), scale**2, dtype=torch.float64))

    def integrand(level):
        x, eps = torch.zeros(2, len(level), 1, dtype=torch.float64)
        parts = []
        for data, error in ((math.sqrt(2) * scale, 0.0), (0.0, math.sqrt(2))):
            parts.append(diffusion_loss(oracle, x + data, level, eps + error, Condition(), ELBOWeighting(noise)) / 2)
        return noise.log_density(level).exp() * sum(parts) / 2

    nats = integrate(integrand, -6.0, 9.0)
    information = [math.log1p(scale**2 * math.exp(level)) / 2 for level in (-6.0, 9.0)]
    assert nats == pytest.approx(information[1] - information[0], rel=1e-9)


def test_edm_weight_times_c_out_squared_is_one_on_f():
    c_out = SIGMA * 0.5 / (SIGMA**2 + 0.25).sqrt()
    # ratio on ε = weight on F, times ‖F̂ − F‖²/‖ε̂ − ε‖² = (σ/c_out)².
    assert_close(ratio(EDMWeighting(LOG_NORMAL, 0.5)) * c_out**2 / SIGMA**2, torch.ones_like(SNR), rtol=1e-12, atol=0)


def test_the_papers_numbers_are_the_defaults():
    assert MinSNRWeighting(COSINE).gamma == 5
    assert P2Weighting(COSINE) == P2Weighting(COSINE, k=1, gamma=1)
    assert SigmoidWeighting(COSINE).bias == 0
    assert EDMWeighting(COSINE).sigma_data == EDMPreconditioning(lambda *_: None).sigma_data == 0.5


def test_edm_loss_is_the_plain_square_of_the_networks_error(normal):
    x, eps, log_snr = normal(9, 6), normal(9, 6, name="eps"), torch.linspace(-9, 12, 9, dtype=torch.float64)
    answer = normal(9, 6, name="F")
    denoiser = EDMPreconditioning(lambda *_, **__: answer, sigma_data=0.5)
    sigma = (-log_snr / 2).exp()[:, None]
    # Karras et al., eq. 8 with its effective weight λ·c_out² = 1.
    c_skip, c_out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
    target = (x - c_skip * (x + sigma * eps)) / c_out
    loss = diffusion_loss(denoiser, x, log_snr, eps, Condition(), EDMWeighting(LOG_NORMAL, 0.5))
    assert_close(loss, (answer - target).square().mean(1), rtol=1e-9, atol=0)


def test_the_objective_does_not_depend_on_the_noise_it_is_drawn_from(integrate):
    reference = ScheduleNoise(CosineSchedule(-8.0, 8.0))
    makers = {
        "simple": lambda noise: SimpleWeighting(noise, reference),
        "min_snr": lambda noise: MinSNRWeighting(noise, 5.0, reference),
        "edm": lambda noise: EDMWeighting(noise, 0.5, reference),
        "v": lambda noise: VWeighting(noise, reference),
        "x0": lambda noise: X0Weighting(noise, reference),
        "truncated_snr": lambda noise: TruncatedSNRWeighting(noise, reference),
        "p2": lambda noise: P2Weighting(noise, reference=reference),
    }
    noises = [COSINE, LogNormalNoise(), LogNormalNoise(0.4, 2.0), ScheduleNoise(CosineSchedule(-9.0, 15.0))]

    def error(level):  # any error curve will do
        return 1 / (1 + (0.7 * level - 1).exp()) + 0.1 * (level / 3).sin().square()

    def objective(noise, weighting, low, high):
        def integrand(level):
            return (noise.log_density(level) + weighting.log_ratio(level)).exp() * error(level)

        return integrate(integrand, low, high)

    for name, make in makers.items():
        values = [objective(noise, make(noise), -8.0, 8.0) for noise in noises]
        own = objective(reference, make(reference), -8.0, 8.0)
        assert values == pytest.approx([own] * len(noises), rel=1e-10), name
    # The sigmoid, the ELBO and EDM need no reference to be told: their w is absolute.
    for make in (lambda noise: SigmoidWeighting(noise, -1.0), ELBOWeighting, EDMWeighting):
        values = [objective(noise, make(noise), -9.0, 15.0) for noise in noises]
        for one, other in combinations(values, 2):
            assert one == pytest.approx(other, rel=1e-10)


def test_without_a_reference_the_ratio_moves_with_the_noise_but_edms_does_not():
    other = ScheduleNoise(ShiftedSchedule(CosineSchedule(), 3.0))
    for make in (SimpleWeighting, MinSNRWeighting, VWeighting, X0Weighting, TruncatedSNRWeighting, P2Weighting):
        assert torch.equal(ratio(make(COSINE)), ratio(make(other)))
    under_cosine = EDMWeighting(COSINE).log_ratio(LEVELS) + COSINE.log_density(LEVELS)
    own = EDMWeighting(LOG_NORMAL).log_ratio(LEVELS) + LOG_NORMAL.log_density(LEVELS)
    assert_close(under_cosine, own, rtol=1e-12, atol=1e-12)


def test_a_reference_that_never_goes_there_gives_weight_zero():
    narrow = ScheduleNoise(CosineSchedule(-2.0, 2.0))
    weighting = SimpleWeighting(COSINE, narrow)
    assert float(weighting.log_ratio(torch.tensor(5.0)).exp()) == 0


def test_float32_agrees_with_float64_at_both_ends():
    level = torch.tensor([-20.0, -10.0, 0.0, 10.0, 20.0], dtype=torch.float64)
    for name, (weighting, _) in PAPERS.items():
        if weighting.noise is LOG_NORMAL or name.startswith("sigmoid"):
            single, double = weighting.log_ratio(level.float()), weighting.log_ratio(level)
            assert_close(single.double(), double, rtol=1e-6, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", TABLE["weighting"])
def test_every_weighting_takes_the_training_noise_by_name(name):
    noise = ScheduleNoise(LinearBetaSchedule())
    weighting = build("weighting", {"name": name}, noise=noise)
    assert weighting.noise is noise
    assert weighting.log_ratio(torch.zeros(3)).shape == (3,)
    number = weighting.log_ratio(0.3)
    assert number.dtype == torch.float64
    assert number == weighting.log_ratio(torch.tensor([0.3], dtype=torch.float64))


def test_the_registry_builds_a_weighting_with_its_reference():
    config = {"name": "simple", "reference": {"name": "schedule", "schedule": {"name": "cosine"}}}
    weighting = build("weighting", config, noise=LOG_NORMAL)
    assert weighting == SimpleWeighting(LOG_NORMAL, COSINE)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"name": "min_snr", "gamma": 0}, "gamma must be positive, not 0"),
        ({"name": "truncated_snr", "gamma": 0.5}, "gamma must be at least 1, not 0.5"),
        ({"name": "edm", "sigma_data": -1.0}, "sigma_data must be positive"),
        ({"name": "sigmoid", "bias": math.inf}, "bias must be finite"),
        ({"name": "p2", "k": 0}, "need k above 0"),
        ({"name": "p2", "gamma": -1}, "gamma at least 0"),
    ],
)
def test_impossible_numbers_are_refused(config, line):
    with pytest.raises(CascadeError, match=line):
        build("weighting", config, noise=COSINE)
