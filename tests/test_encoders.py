"""Encoders at any image size: plain and rotary ViTs, windows, channels last, lost borders."""

from types import SimpleNamespace

import pytest
import timm
import torch
import torch.nn.functional as F
from small_models import build_small, images, outputs_of
from timm.layers import resample_abs_pos_embed

import tools.encoders
from models import MODELS
from models.any_size import cells
from models.backbones import Backbone, build_backbone
from models.pyramid import Pyramid
from utils.config.registry import build
from utils.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:timm")

# One of each kind, small or on the meta device: what each needs, and its strides.
KINDS = {
    "test_vit": (16, (16,) * 4),
    "test_mambaout": (1, (4, 8, 16, 32)),  # channels last
    "test_maxvit": (160, (2, 4, 8, 16, 32)),  # windows that are a share of its own size
    "eva02_tiny_patch14_224": (14, (14,) * 4),  # rotary positions
    "swin_tiny_patch4_window7_224": (4, (4, 8, 16, 32)),
    "dla46x_c": (32, (2, 4, 8, 16, 32)),
    "inception_v3": (96, (2, 4, 8, 16, 32)),  # convolutions without padding
}


@pytest.mark.parametrize("name", KINDS)
def test_features_cover_images_of_any_size(name):
    multiple, strides = KINDS[name]
    with torch.device("meta"):
        backbone = build_backbone(name, in_channels=2, pretrained=False).eval()
        assert (backbone.multiple, backbone.strides) == (multiple, strides)
        for size in ((32, 32), (65, 97)):
            features = backbone(torch.empty(2, 2, *size))
            assert tuple(feature.shape[1] for feature in features) == backbone.channels
            for feature, stride in zip(features, strides, strict=True):
                for found, side in zip(feature.shape[2:], size, strict=True):
                    assert abs(found - side / stride) <= 1


@pytest.mark.parametrize("name", ["test_vit", "test_mambaout", "test_maxvit"])
def test_at_its_own_size_features_are_those_of_timm(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, pretrained=False).eval()
    reference = timm.create_model(name).eval()
    own = getattr(backbone.network, "model", backbone.network).state_dict()
    own = {key.replace("stages_", "stages."): value for key, value in own.items()}
    reference.load_state_dict({**reference.state_dict(), **own})
    batch = torch.randn(1, 3, 160, 160)
    last = {"indices": 4, "norm": True} if backbone.plain else {}
    with torch.no_grad():
        _, expected = reference.forward_intermediates(batch, output_fmt="NCHW", **last)
        for found, feature in zip(backbone(batch), expected[-len(backbone.strides) :], strict=True):
            assert torch.equal(found, feature)
            assert feature.std() > 0


@pytest.mark.parametrize("name", ["test_vit", "test_maxvit"])
def test_images_are_padded_and_features_cropped(name):
    backbone = build_small("UperNet", backbone=name).backbone.eval()
    batch = images(65, 97)
    below, right = (-side % backbone.multiple for side in (65, 97))
    with torch.no_grad():
        padded = backbone.network(F.pad(batch, (0, right, 0, below)))
        for found, feature, stride in zip(backbone(batch), padded, backbone.strides, strict=True):
            assert torch.equal(found, feature[:, :, : -(-65 // stride), : -(-97 // stride)])


def test_cells_of_a_border_that_convolutions_lose_are_put_back_evenly():
    with torch.device("meta"):
        backbone = build_backbone("inception_v3", pretrained=False).eval()
    found = torch.arange(5.0).expand(1, 1, 5, 5)
    backbone.network = torch.nn.Module()
    backbone.network.forward = lambda _: [found] * 5
    last = backbone(torch.empty(1, 3, 192, 224))[-1]  # two cells fewer than 6 x 7
    assert last.shape[2:] == (6, 7)
    assert last[0, 0, 0].tolist() == [0, 0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_coatnet", r"made for 160 x 160 \(timm: .+\)"),
        ("test_vit_relpos", r"made for 160 x 160 \(timm: Input width \(\d+\) doesn't match"),
    ],
)
def test_a_network_of_one_size_is_refused_with_the_reason(name, reason):
    message = f"backbone: {name} does not take images of any size, it is {reason}"
    for model in ("Linear", "UperNet"):
        with pytest.raises(ConfigError, match=message):
            build_small(model, backbone=name)


def test_a_map_that_ignores_the_image_is_refused():
    network = torch.nn.Module()
    network.feature_info = SimpleNamespace(channels=lambda: [3], reduction=lambda: [4])
    network.forward = lambda batch: [F.adaptive_avg_pool2d(batch, 20)]
    network.weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(ConfigError, match=r"80 x 80 \(its features do not follow the image"):
        Backbone(network, {"name": "test_vit", "img_size": 80}, in_channels=3)


def test_a_stride_is_covered_by_whole_cells():
    assert [cells(65, stride) for stride in (1, 3.5, 4, 7, 14, 28, 32)] == [65, 19, 17, 10, 5, 3, 3]


def test_an_object_gives_the_size_and_the_drop_path_rate():
    encoder = {"name": "test_vit", "img_size": 96, "drop_path_rate": 0.3}
    model = build(
        "arch", MODELS, "Linear", {"backbone": encoder, "pretrained": False}, num_classes=3
    )
    network = model.backbone.network.model
    assert network.pos_embed.shape[1] == network.num_prefix_tokens + 6 * 6
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in network.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.3, len(rates)).tolist())


def test_the_position_table_of_a_weight_file_is_brought_to_another_size(tmp_path):
    torch.manual_seed(1)
    whole = timm.create_model("test_vit")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    encoder = {"name": "test_vit", "img_size": 96}
    backbone = build_backbone(encoder, pretrained=str(tmp_path / "weights.pth"))
    found = backbone.network.model.pos_embed
    expected = resample_abs_pos_embed(
        whole.pos_embed, (6, 6), num_prefix_tokens=whole.num_prefix_tokens
    )
    assert torch.allclose(found, expected, atol=1e-6)
    assert torch.equal(backbone.network.model.norm.weight, whole.norm.weight)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"name": "test_vit", "imgsize": 96},
            r"arch\.args\.backbone\.imgsize: expected no such key",
        ),
        ({"img_size": 96}, r"arch\.args\.backbone\.name: missing"),
        (
            {"name": "test_vit", "drop_path_rate": 1},
            r"drop_path_rate: expected a number < 1, got 1",
        ),
        ({"name": "tst_vit"}, "unknown encoder 'tst_vit'; did you mean test_vit"),
        ({"name": "test_resnet", "img_size": 96}, "test_resnet does not offer img_size 96; docs"),
    ],
)
def test_a_wrong_object_is_explained(value, message):
    with pytest.raises(ConfigError, match=message):
        build("arch", MODELS, "UperNet", {"backbone": value, "pretrained": False}, num_classes=3)


@pytest.mark.parametrize(("patch", "name"), [(16, "test_vit"), (14, "eva02_tiny_patch14_224")])
def test_a_plain_encoder_gets_the_pyramid_of_vitdet(patch, name):
    with torch.device("meta"):
        backbone = build_backbone(name, pretrained=False)
        pyramid = Pyramid(backbone)
        size = (8 * patch, 6 * patch)
        levels = pyramid(backbone(torch.empty(1, 3, *size)), size)
        odd = pyramid(backbone(torch.empty(1, 3, 65, 97)), (65, 97))
    assert pyramid.strides == (patch / 4, patch / 2, patch, 2 * patch)  # Sec. 3
    assert [level.shape[1:] for level in levels] == [
        (256, 8 * 4, 6 * 4), (256, 8 * 2, 6 * 2), (256, 8, 6), (256, 4, 3)
    ]  # fmt: skip
    for level, stride in zip(odd, pyramid.strides, strict=True):
        assert level.shape[2:] == (cells(65, stride), cells(97, stride))


def test_stages_of_different_strides_are_no_pyramid_s_business():
    with torch.device("meta"):
        backbone = build_backbone("test_resnet", pretrained=False)
        pyramid = Pyramid(backbone)
    features = [torch.empty(1)]
    assert pyramid(features, (64, 64)) is features
    assert list(pyramid.parameters()) == []
    assert (pyramid.channels, pyramid.strides) == (backbone.channels, backbone.strides)


def test_the_pyramid_trains_where_the_encoder_is_frozen():
    with torch.device("meta"):
        model = build_small("UperNet", backbone="test_vit", freeze_backbone=True)
    assert all(parameter.requires_grad for parameter in model.pyramid.parameters())
    assert not any(parameter.requires_grad for parameter in model.backbone_parameters())


def test_a_dilated_decoder_takes_patches_of_its_stride_as_they_are():
    model = build_small("PSPNet", backbone="test_vit", output_stride=16).eval()
    assert model(images(65, 97)).shape == (2, 3, 65, 97)
    with pytest.raises(ConfigError, match="test_vit ends at stride 16, needed: 8"):
        build_small("PSPNet", backbone="test_vit")


def test_four_stages_are_asked_for_where_fewer_are_there():
    with (
        torch.device("meta"),
        pytest.raises(ConfigError, match="shvit_s1 has 3 stages, this model needs 4"),
    ):
        build_small("GCN", backbone="shvit_s1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "vit_pwee_patch16_reg1_gap_256",
        "eva02_tiny_patch14_224",
        "swin_tiny_patch4_window7_224",
        "test_maxvit",
        "test_convnext",
        "mobilenetv4_conv_small_035",
        "pvt_v2_b0",
    ],
)
def test_every_kind_of_encoder_learns(name):
    model = build_small("UperNet", backbone=name, fpn_out=32, use_aux=False).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batch, masks = images(64, 80), torch.arange(2 * 64 * 80).reshape(2, 64, 80) // 40 % 3
    losses = []
    for _ in range(8):
        loss = F.cross_entropy(outputs_of(model, batch)[0], masks)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_family_of_timm_is_taken_or_refused_with_a_reason():
    rows = list(tools.encoders.rows())  # raises where features have another size
    taken = {model: sum(model in row.taken_by for row in rows) for model in tools.encoders.MODELS}
    plain = sum(len(set(row.strides)) == 1 for row in rows)
    assert taken["Linear"] >= 78
    assert taken["UperNet"] >= 76
    assert taken["UNetResnet"] >= 76
    assert taken["SegFormer"] >= 70
    assert taken["SegFormer"] - plain >= 60
    assert all(row.refusal for row in rows if not row.taken_by)
