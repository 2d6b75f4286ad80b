import numpy as np
import pytest
import torch
from planted_classifiers import InputTimesGradient, classifier, colour_net, coloured
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from optogram.errors import ModelError
from optogram.methods.visualisation.circuits import circuit_channels, class_relevance, reached_layer


def test_a_class_that_reads_three_channels_has_them_for_a_circuit_in_order():
    """Channels 3, 7 and 1 with falling weights, 5 against the class; all of them are as active."""
    head, mix = np.zeros((2, 8)), np.ones((8, 3))
    head[0, [3, 7, 1, 5]] = 4, 2, 1, -9
    head[1, 5] = 1
    net = classifier(colour_net(head, mix), ["a", "b"])
    pixels, _ = coloured(["red", "green", "blue"] * 3)
    of = [class_relevance(net, pixels, k, "layer", InputTimesGradient(net.model), batch=4) for k in range(2)]
    found = circuit_channels(np.stack([each.positive for each in of]), 5, alive=np.ones(8, bool))
    assert found.channel.tolist() == [[3, 7, 1, -1, -1], [5, -1, -1, -1, -1]]
    np.testing.assert_allclose(found.share, [[4 / 7, 2 / 7, 1 / 7, 0, 0], [1, 0, 0, 0, 0]], rtol=1e-5)
    dead = circuit_channels(np.stack([each.positive for each in of]), 2, alive=np.arange(8) != 3)
    assert dead.channel.tolist() == [[7, 1], [5, -1]]
    np.testing.assert_allclose(dead.share, [[2 / 7, 1 / 7], [1, 0]], rtol=1e-5)


@pytest.mark.parametrize("batch", [2, 100])
def test_relevance_is_summed_over_space_and_its_positive_part_averaged(batch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    net = classifier(model, ["a", "b", "c"])
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    found = class_relevance(net, pixels, 1, "1", InputTimesGradient(net.model), batch=batch)
    signed, positive, logits = np.zeros(4), np.zeros(4), []
    for image in pixels:
        maps = model[:2](torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0]
        own = (maps * model[3].weight[1].reshape(4, 6, 6)).sum((1, 2)).double().numpy()
        logits.append(float(own.sum() + model[3].bias[1]))
        signed, positive = signed + own / 7, positive + np.maximum(own, 0) / 7
    np.testing.assert_allclose(found.logit, logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.signed, signed, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.positive, positive, rtol=1e-4, atol=1e-5)
    assert (found.signed < found.positive).any()


def test_equal_channels_come_in_order_and_fewer_than_asked_are_padded():
    found = circuit_channels(np.array([[1.0, 2.0, 1.0], [0.0, 0.0, 0.0]]), 4, alive=np.ones(3, bool))
    assert found.channel.tolist() == [[1, 0, 2, -1], [-1] * 4]
    assert found.share.tolist() == [[0.5, 0.25, 0.25, 0], [0] * 4]
    assert circuit_channels(np.ones((2, 3)), 0, alive=np.ones(3, bool)).channel.shape == (2, 0)


def test_the_last_block_that_a_logit_depends_on():
    """Of a ViT with a class token the last block's patch tokens lead nowhere; with averaged tokens they do."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    for pool, expected in (("token", "blocks.1"), ("avg", "blocks.2")):
        torch.manual_seed(0)
        model = VisionTransformer(32, 8, num_classes=2, embed_dim=16, depth=3, num_heads=2, global_pool=pool)
        net = classifier(model, ["a", "b"], size=(32, 32))
        assert reached_layer(net, pixels, 0, InputTimesGradient(model)) == expected
    torch.manual_seed(0)
    convs = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU())
    net = classifier(nn.Sequential(convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), ["a", "b"])
    assert reached_layer(net, pixels, 0, InputTimesGradient(net.model)) == "0.3"


def test_classes_that_do_not_fit_and_relevance_that_arrives_nowhere():
    net = classifier(colour_net(np.zeros((2, 3)), np.eye(3)), ["a", "b"])
    pixels, _ = coloured(["red"] * 2)
    with pytest.raises(ModelError, match=r"no relevance of the logit 'a' arrives at any of layer"):
        reached_layer(net, pixels, 0, InputTimesGradient(net.model))
    three = classifier(net.model, ["a", "b", "c"])
    with pytest.raises(ModelError, match=r"gives \(2, 2\), but has 3 classes: a, b, c.\n  Name its logits"):
        class_relevance(three, pixels, 0, "layer", InputTimesGradient(net.model), batch=8)
