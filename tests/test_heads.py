"""The Linear and SegFormer heads against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from small_models import build_small, images

from models.segformer import MLPHead
from utils.errors import ConfigError


def random_statistics(norm):
    """Give batch normalization statistics and weights of its own."""
    for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
        tensor.normal_()
    norm.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("last", [1, 3])
def test_linear_is_batch_norm_and_one_matrix(last):
    model = build_small("Linear", last=last).double().eval()
    random_statistics(model.norm)
    batch = images(64, 48).double()
    with torch.no_grad():
        x = torch.cat(model.backbone(batch)[-last:], dim=1)
        mean, var, weight, bias = (
            part[:, None, None]
            for part in (
                model.norm.running_mean, model.norm.running_var, model.norm.weight, model.norm.bias
            )
        )  # fmt: skip
        x = (x - mean) / (var + model.norm.eps).sqrt() * weight + bias
        scores = torch.einsum("kc,nchw->nkhw", model.classifier.weight[:, :, 0, 0], x)
        scores = scores + model.classifier.bias[:, None, None]
        expected = F.interpolate(scores, size=(64, 48), mode="bilinear")
        assert torch.allclose(model(batch), expected, rtol=1e-10, atol=1e-12)


def test_linear_keeps_a_pixel_s_place_where_patches_do_not_divide_the_image():
    model = build_small("Linear").eval()
    batch = images(50, 37)
    with torch.no_grad():
        whole = model(F.pad(batch, (0, 48 - 37, 0, 64 - 50)))
        assert torch.equal(model(batch), whole[:, :, :50, :37])


def test_linear_does_not_join_more_features_than_there_are():
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match="last: found 9, expected at most 4"),
    ):
        build_small("Linear", last=9)


def test_a_frozen_encoder_runs_without_a_graph():
    model = build_small("Linear", freeze_backbone=True).train()
    features = model.backbone(images(32, 32))
    assert not any(feature.requires_grad for feature in features)
    model(images(32, 32)).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"norm.weight", "norm.bias", "classifier.weight", "classifier.bias"}


def test_segformer_fuses_all_stages_by_one_linear_layer():
    """Eq. 4: embed, resize to the first, join, fuse, classify; our sum is the same."""
    torch.manual_seed(0)
    head = MLPHead((3, 5, 7), 4, width=6).double().eval()
    random_statistics(head.norm)
    for embed in head.embed:
        embed.bias.data.normal_()
    stages = [torch.randn(2, c, 12 // s, 8 // s).double() for c, s in ((3, 1), (5, 2), (7, 4))]
    embedded = [
        F.interpolate(embed(stage), size=(12, 8), mode="bilinear")
        for embed, stage in zip(head.embed, stages, strict=True)
    ]
    weight = torch.cat([fuse.weight for fuse in head.fuse], dim=1)  # one layer, 18 to 6
    joined = F.relu(head.norm(F.conv2d(torch.cat(embedded, dim=1), weight)))
    assert torch.allclose(head(stages), head.classifier(joined), rtol=1e-10, atol=1e-12)
