"""A size that makes no network is refused by its name, in one line."""

import pytest

from cascade.errors import CascadeError
from cascade.registry import build

WRONG = [
    ("efficient", {"patch": 0}, "patch must be at least 1, not 0"),
    ("efficient", {"channels": [64, -8, 128]}, "channels must be at least 1, not -8"),
    ("efficient", {"blocks": [1, -1, 1]}, "blocks must be at least 0, not -1"),
    ("efficient", {"blocks": [1, 1]}, "channels, blocks and attention name the same levels, not 3, 2 and 3"),
    ("imagen_unet", {"head_channels": 0}, "head_channels must be at least 1, not 0"),
    ("imagen_unet", {"head_channels": 80}, "head_channels=80 does not divide 192 channels"),
    ("imagen_unet", {"blocks": [1, 1]}, "channels, blocks and attention name the same levels, not 3, 2 and 3"),
    ("uvit", {"blocks": [1, 1]}, "channels and blocks name the same levels, not 1 and 2"),
    ("uvit", {"norm": "layer"}, "norm is one of group, pixel, not 'layer'"),
    ("uvit", {"depth": -1}, "depth must be at least 0, not -1"),
    ("uvit", {"dim": 30}, "4 divides, not 30"),
    ("dit", {"heads": 0}, "heads must be at least 1, not 0"),
    ("dit", {"heads": 5}, "5 heads do not divide a width of 192"),
    ("dit", {"dropout": 1.0}, "dropout is a probability in [0, 1), not 1.0"),
    ("jit", {"bottleneck": 0}, "bottleneck must be at least 1, not 0"),
    ("jit", {"class_start": 8}, "class_start=8 names none of the 8 blocks"),
    ("jit", {"dim": 264}, "heads whose width 4 divides, not 66"),
    ("dit", {"mlp_ratio": 0.0}, "mlp_ratio=0.0 makes no width of 192"),
    ("dit", {"mlp_ratio": 1e9}, "mlp_ratio=1000000000.0 makes no width of 192"),
    ("uvit", {"mlp_ratio": float("inf")}, "mlp_ratio=inf makes no width of"),
    ("jit", {"mlp_ratio": -1.0}, "mlp_ratio=-1.0 makes no width of 256"),
    ("edm2", {"channels": 0}, "channels must be at least 1, not 0"),
    ("edm2", {"head_channels": 0}, "head_channels must be at least 1, not 0"),
    ("edm2", {"channel_mult": []}, "channel_mult names no level"),
    ("edm2", {"attention": [16, 8]}, "[16, 8] names divisors of the side; 16 is none of [1, 2, 4, 8]"),
    ("edm2", {"size": 12}, "size=12 must be a multiple of 8"),
    ("adm", {"channels": 0}, "channels must be at least 1, not 0"),
    ("adm", {"channel_mult": []}, "channel_mult names no level"),
    ("adm", {"channel_mult": [1, -2]}, "channel_mult times channels must be at least 1, not -"),
    ("adm", {"head_channels": 0}, "head_channels must be at least 1, not 0"),
    ("adm", {"head_channels": None, "heads": 0}, "heads must be at least 1, not 0"),
    ("adm", {"blocks": -1}, "blocks must be at least 0, not -1"),
    *[(name, {"depth": 10**9}, "depth must be at most 1000, not 1000000000") for name in ("dit", "jit", "uvit")],
    ("efficient", {"blocks": [1, 10**9, 1]}, "blocks must be at most 1000, not 1000000000"),
    ("efficient", {"channels": [64, 10**9, 128]}, "channels must be at most 16384, not 1000000000"),
    ("efficient", {"place_features": 10**9}, "place_features must be at most 1000, not 1000000000"),
    ("imagen_unet", {"blocks": [10**9, 1, 1]}, "blocks must be at most 1000, not 1000000000"),
    *[(name, {"blocks": 10**9}, "blocks must be at most 1000, not 1000000000") for name in ("edm2", "adm")],
    ("dit", {"dim": 10**9}, "dim must be at most 16384, not 1000000000"),
    ("jit", {"class_tokens": 10**9}, "class_tokens must be at most 1000, not 1000000000"),
    *[
        ("edm2", {f"{what}_balance": float("inf")}, f"{what}_balance is a share in [0, 1]")
        for what in ("label", "concat")
    ],
    ("edm2", {"label_balance": -0.1}, "label_balance is a share in [0, 1], not -0.1"),
    ("jit", {"heads": 3}, "3 heads do not divide a width of 256"),
]


@pytest.mark.parametrize(("name", "options", "why"), WRONG)
def test_a_size_that_makes_no_network_is_named(name, options, why):
    with pytest.raises(CascadeError) as error:
        build("network", {"name": name, **options})
    assert str(error.value).startswith(f"network '{name}': ")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"channel_mult": []}, "channel_mult names no level"),
        ({"head_channels": 0}, "head_channels must be at least 1, not 0"),
        ({"patch": 0}, "patch must be at least 1, not 0"),
        ({"patch": 3}, "size=64 must be a multiple of 24"),
    ],
)
def test_no_such_size_makes_a_classifier_either(options, why):
    with pytest.raises(CascadeError, match=f"classifier 'adm': {why}"):
        build("classifier", {"name": "adm", "num_classes": 2, **options})
