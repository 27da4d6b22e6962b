"""Figures of two feature matrices: torchmetrics' number, the rule for few pictures, names, and what goes with them."""

import json

import pytest
import torch

from cascade.errors import CascadeError
from cascade.evaluation.figures import distances, names_of, torchmetrics_frechet
from cascade.evaluation.frechet import frechet_distance
from cascade.evaluation.kernel import kernel_distance
from cascade.evaluation.precision_recall import precision_recall
from cascade.evaluation.statistics import statistics_of
from cascade.evaluation.tiny import tiny_features
from cascade.rng import generator, randn


def matrices(n, m, dim=32):
    return randn("figures", "x", shape=(n, dim)), 1.2 * randn("figures", "y", shape=(m, dim)) + 0.1


def test_the_frechet_distance_is_the_symmetric_form_and_equals_torchmetrics():
    x, y = matrices(200, 150)
    ours, theirs = statistics_of(x), statistics_of(y)
    expected = frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    assert torchmetrics_frechet(x, y) == pytest.approx(expected, rel=1e-9)
    figure = distances(x, y, tiny_features(), seed=0)[0][0]
    assert figure.name == "FD-tiny"
    assert figure.value == expected
    assert figure.details["torchmetrics"] == pytest.approx(expected, rel=1e-9)
    assert figure.details["negative_mass"] < 1e-12


def test_torchmetrics_on_pictures_gives_the_same_number_as_on_our_features():
    from torchmetrics.image.fid import FrechetInceptionDistance

    features = tiny_features(batch=8)

    class Extractor(torch.nn.Module):
        num_features = features.dim

        def forward(self, images):
            return features(images).double()

    real, fake = (
        torch.randint(0, top, (64, 3, 16, 16), generator=generator("torchmetrics", top), dtype=torch.uint8)
        for top in (256, 200)
    )
    metric = FrechetInceptionDistance(feature=Extractor())
    for start in range(0, 64, 20):
        metric.update(real[start : start + 20], real=True)
        metric.update(fake[start : start + 20], real=False)
    figure = distances(features(fake), features(real), features, seed=0)[0][0]
    assert figure.value == pytest.approx(metric.compute().item(), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "m", "bias", "few"),
    [(31, 100, "N<d", "the 32"), (100, 31, "N<d", "the 32"), (63, 64, "N<2d", "twice the 32")],
)
def test_with_fewer_pictures_than_twice_the_dimensions_the_kernel_distance_stands_alone(n, m, bias, few):
    x, y = matrices(n, m)
    figures, left_out = distances(x, y, tiny_features(), seed=4)
    assert [figure.name for figure in figures] == ["KID-tiny", "precision", "recall"]
    assert len(left_out) == 1
    assert f"{min(n, m)} pictures are fewer than {few} feature dimensions" in left_out[0]
    assert "allow_few_images" in left_out[0]
    figures, left_out = distances(x, y, tiny_features(), seed=4, allow_few_images=True)
    assert figures[0].name == f"FD-tiny (biased, {bias})"
    assert left_out == []
    assert (figures[1].value, figures[1].standard_error) == kernel_distance(x, y, 4)


def test_twice_as_many_pictures_as_dimensions_are_enough():
    assert distances(*matrices(64, 64), tiny_features(), seed=0)[0][0].name == "FD-tiny"


def test_a_set_is_at_distance_zero_from_itself_also_with_few_pictures():
    for count in (20, 200):
        x, _ = matrices(count, 1)
        figure = distances(30 * x, 30 * x, tiny_features(), seed=0, allow_few_images=True)[0][0]
        assert abs(figure.value) < 1e-6


def test_precision_speaks_of_the_generated_and_recall_of_the_real_ones():
    real = torch.cat([randn("a", shape=(40, 4)), randn("b", shape=(40, 4)) + 100])
    features = tiny_features()
    figures = {figure.name: figure.value for figure in distances(real[:40], real, features, seed=0)[0]}
    assert (figures["precision"], figures["recall"]) == (1.0, 0.5)
    assert tuple(precision_recall(real, real[:40], 3)) == (1.0, 0.5)


def test_every_figure_carries_features_number_and_resize_rule():
    features = tiny_features()
    for figure in distances(*matrices(70, 80), features, seed=0)[0]:
        assert (figure.num_images, figure.num_reference) == (70, 80)
        assert (figure.features, figure.sha256, figure.resize) == ("tiny", features.sha256, features.resize)
        json.dumps(figure.to_json(), allow_nan=False)


def test_only_inceptions_distances_are_called_fid_and_kid():
    class Named:
        dim, sha256, resize = 2, "", ""

        def __init__(self, name):
            self.name = name

    assert names_of(Named("inception")) == ("FID", "KID")
    for name in ("efficientnet_lite0", "inception-12345678"):
        assert names_of(Named(name)) == (f"FD-{name}", f"KID-{name}")


def test_two_pictures_are_too_few():
    with pytest.raises(CascadeError, match="2 pictures are too few"):
        distances(*matrices(2, 50), tiny_features(), seed=0)
    _, left_out = distances(*matrices(3, 50), tiny_features(), seed=0)
    assert "no precision and recall" in left_out[-1]
