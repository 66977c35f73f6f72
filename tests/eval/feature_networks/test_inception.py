"""Inception on the real architecture with random weights, in a file like the published one."""

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.inception import InceptionNetwork
from smalti.eval.frechet import FeatureStatistics, frechet_distance


@pytest.fixture(scope="module")
def inception_state():
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with torch.device("meta"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *args: None)
        patch.setattr(torch, "load", lambda *args, **kwargs: None)
        network = FeatureExtractorInceptionV3("x", ["2048"], "nowhere")
    generator = torch.Generator().manual_seed(7)

    def random_weight(key, value):
        if key.endswith("num_batches_tracked"):
            return torch.tensor(0)
        if value.ndim > 1:
            return torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        return torch.zeros(value.shape) if key.endswith(("bias", "running_mean")) else torch.ones(value.shape)

    return {key: random_weight(key, value) for key, value in network.state_dict().items()}


@pytest.mark.slow
def test_rfid_is_the_fid_of_torchmetrics_with_the_resize_of_tensorflow(
    weights_file, inception_state, photos, add_noise
):
    from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

    file = weights_file("inception", inception_state)
    network = InceptionNetwork(file)
    theirs = FrechetInceptionDistance(feature_extractor_weights_path=str(file), antialias=False)
    a, b = photos[:3], add_noise(photos[:3], 0.2)
    with torch.no_grad():
        torch.testing.assert_close(network(a), theirs.inception(a))
        statistics = [FeatureStatistics(network.dim), FeatureStatistics(network.dim)]
        for features, images in zip(statistics, (a, b), strict=True):
            features.add(network(images))
        x, y = (network(images).double() for images in (a, b))
    # Their formula needs the eigenvalues of a product of covariances, which are fast and accurate for two features.
    pair = [FeatureStatistics(2), FeatureStatistics(2)]
    for features, z in zip(pair, (x, y), strict=True):
        features.add(z[:, :2])
    expected = _compute_fid(x[:, :2].mean(0), torch.cov(x[:, :2].T), y[:, :2].mean(0), torch.cov(y[:, :2].T))
    assert frechet_distance(*pair) == pytest.approx(expected.item(), rel=1e-6)
    assert frechet_distance(*statistics) > 0
    assert (network.metric, network.comparable) == ("rfid", True)


class Malicious:
    def __reduce__(self):
        return (print, ("this ran",))


def test_files_with_more_than_tensors_raise_an_error(weights_file, capsys):
    with pytest.raises(SmaltiError, match="cannot be read as Inception weights"):
        InceptionNetwork(weights_file("inception", {"x": Malicious()}))
    assert "this ran" not in capsys.readouterr().out
