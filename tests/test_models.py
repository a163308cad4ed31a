"""The contract that every network keeps."""

import functools
import io

import pytest
import torch
import torch.nn.functional as F
from small_models import NETWORKS, ONE_SIZE, VARIANTS, build_small, images, outputs_of
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.inference.exporting import smallest_side, trace
from utils.metrics.confusion import ConfusionMatrix

HEAVY = ("FCN8", "SegNet")  # VGG16 is what it is
LIGHT = [name for name in NETWORKS if name not in HEAVY]
HEAVY_SLOW = [*LIGHT, *(pytest.param(name, marks=pytest.mark.slow) for name in HEAVY)]
SIZES = [(32, 32), (33, 33), (65, 97), (128, 128), (380, 380)]


@pytest.fixture(autouse=True, scope="module")
def _forget_models():
    yield
    shared.cache_clear()


@functools.cache
def shared(name):
    """One instance for the tests that leave its weights alone."""
    model = build_small(name)
    for module in model.modules():
        # timm starts the last normalization of a residual branch at 0, which hides the branch.
        if isinstance(module, _BatchNorm):
            nn.init.ones_(module.weight)
    return model


def check_shapes(model, num_classes, batch):
    size = batch.shape[2:]
    expected = (batch.shape[0], num_classes, *size)
    with torch.no_grad():
        trained = outputs_of(model.train(), batch)
        evaluated = model.eval()(batch)
    assert evaluated.shape == expected
    assert evaluated.isfinite().all()
    assert all(output.shape == expected for output in trained)
    assert len(trained) == 1 + model.facts.auxiliary


@pytest.mark.parametrize("size", [(33, 33), (65, 97)], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_the_size_of_the_image(name, size):
    check_shapes(shared(name), 3, images(*size))


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("num_classes", [1, 2, 21])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_have_the_size_of_the_image_for_any_classes_and_channels(
    name, num_classes, channels
):
    model = build_small(name, num_classes, in_channels=channels)
    largest = 5 if (num_classes, channels) in ((1, 1), (2, 3), (21, 5)) else 3
    for size in SIZES[:largest]:
        check_shapes(model, num_classes, images(*size, channels=channels))


@pytest.mark.parametrize("name", HEAVY_SLOW)
def test_every_parameter_gets_a_gradient(name):
    model = shared(name).train()
    model.zero_grad(set_to_none=True)
    loss = sum(
        (output * torch.randn_like(output)).sum() for output in outputs_of(model, images(64, 64))
    )
    loss.backward()
    idle = [
        key
        for key, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    model.zero_grad(set_to_none=True)
    assert idle == []


@pytest.mark.parametrize("name", HEAVY_SLOW)
def test_a_saved_state_restores_the_network(name):
    model = shared(name).eval()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build_small(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    with torch.no_grad():
        assert torch.equal(other.eval()(images(33, 40)), model(images(33, 40)))


@pytest.mark.parametrize("name", HEAVY_SLOW)
def test_channels_last_gives_the_same_logits(name):
    model = shared(name).eval()
    batch = images(65, 48)
    with torch.no_grad():
        expected = model(batch)
        model.to(memory_format=torch.channels_last)
        found = model(batch.contiguous(memory_format=torch.channels_last))
        model.to(memory_format=torch.contiguous_format)
    assert torch.allclose(found, expected, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("name", HEAVY_SLOW)
def test_bfloat16_autocast_stays_near_float32(name):
    model = shared(name).train()
    batch = images(64, 64)
    with torch.no_grad():
        model(batch)  # statistics that fit the images
        expected = model.eval()(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(batch).float()
    error = (found - expected).norm() / expected.norm()
    # Where two values of a pooling window are nearly equal, rounding may change the place.
    assert error < (0.2 if name in ("SegNet", "SegResNet", "ENet") else 0.05)


@pytest.mark.parametrize(
    "name",
    [
        name if name == "UNet" else pytest.param(name, marks=pytest.mark.slow)
        for name in NETWORKS
        if name != ONE_SIZE
    ],
)
def test_exports_in_one_graph_for_any_size(name):
    model = shared(name).eval()
    program = trace(model, images(64, 96), free_sizes=True)
    exported, least = program.module(), smallest_side(program)
    # Its ConvNeXt and its PVTv2 have maps of one pixel below.
    assert 33 < least <= 64 if name.startswith("SegFormer") else least == 33
    with torch.no_grad():
        for size in ((64, 96), (65, 97), (100, 71), (least, least)):
            for count in (1, 3):
                example = images(*size, count=count)
                assert torch.allclose(exported(example), model(example), atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # FCN8's 134 M parameters on one thread
@pytest.mark.parametrize("name", NETWORKS)
def test_overfits_two_images(name):
    torch.manual_seed(3)
    masks = F.interpolate(torch.randint(0, 3, (2, 1, 4, 4)).float(), size=(64, 64)).long()[:, 0]
    batch = F.one_hot(masks, 3).permute(0, 3, 1, 2).float() + 0.3 * torch.randn(2, 3, 64, 64)
    model = build_small(name).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4 if name == "FCN8" else 2e-3)
    for _ in range(300):
        optimizer.zero_grad()
        torch.stack(
            [F.cross_entropy(output, masks) for output in outputs_of(model, batch)]
        ).sum().backward()
        optimizer.step()
        if (score := _mean_iou(model, batch, masks)) > 0.95:
            break
        model.train()
    assert score > 0.95


def _mean_iou(model, batch, masks):
    matrix = ConfusionMatrix(3, ignore_index=255, device=torch.device("cpu"))
    with torch.no_grad():
        matrix.update(model.eval()(batch), masks)
    return matrix.compute()["Mean_IoU"]


@pytest.mark.parametrize("name", HEAVY_SLOW)
def test_one_image_trains_or_is_said_to_be_too_few(name):
    model = shared(name).train()
    if model.min_train_batch == 1:
        outputs_of(model, images(64, 64, count=1))
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            model(images(64, 64, count=1))
        frozen = build_small(name, freeze_bn=True).train()
        assert frozen.min_train_batch == 1
        outputs_of(frozen, images(64, 64, count=1))


@pytest.mark.parametrize("name", LIGHT)
def test_one_image_of_one_value_at_the_deepest_stride_is_said_to_be_too_few(name):
    model = shared(name).train()
    if model.fewest_images(32) == 1:
        outputs_of(model, images(32, 32, count=1))
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            model(images(32, 32, count=1))
    assert model.fewest_images(33) == model.fewest_images(None) == model.min_train_batch


def test_without_statistics_to_take_one_value_is_enough():
    for arguments in ({"freeze_bn": True}, {"freeze_backbone": True}):
        model = build_small("GCN", **arguments).train()
        assert model.fewest_images(32) == 1
        outputs_of(model, images(32, 32, count=1))


def test_networks_that_pool_to_one_pixel_need_two_images():
    needing = {name for name in LIGHT if shared(name).min_train_batch == 2}
    pooled = {"PSPNet", "PSPDenseNet", "UperNet", "DeepLab"}
    assert needing == pooled | {name for name in VARIANTS if name.startswith("UperNet")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("DeepLab", {"output_stride": 8}),
        ("DeepLab", {"separable": True}),
        ("DeepLab", {"backbone": "xception41"}),
        ("DeepLab", {"backbone": "mobilenetv2_035"}),
        ("DeepLab", {"backbone": "test_convnext"}),
        ("UNetResnet", {"backbone": "mobilenetv3_small_050"}),
        ("UNetResnet", {"backbone": "test_convnext"}),
        ("UNetResnet", {"backbone": "tf_efficientnet_lite0"}),
        ("UperNet", {"backbone": "test_convnext", "use_aux": True}),
        ("UperNet", {"backbone": "efficientnet_b0"}),
        ("PSPNet", {"backbone": "test_efficientnet", "output_stride": 16}),
        ("GCN", {"use_deconv": True}),
        ("GCN", {"use_resnet_gcn": True}),
        ("GCN", {"backbone": "densenet121"}),
        ("SegResNet", {"backbone": "resnet50"}),
        ("SegResNet", {"backbone": "resnet34"}),
        ("SegNet", {"backbone": "vgg16"}),
        ("FCN8", {"backbone": "vgg16_bn"}),
        ("DeepLab_DUC_HDC", {"backbone": "resnet50"}),
        ("DeepLab_DUC_HDC", {"backbone": "resnet50d"}),
        ("PSPDenseNet", {"backbone": "densenet169"}),
        ("Linear", {"backbone": "test_resnet", "last": 3}),
        ("SegFormer", {"backbone": "test_vit"}),
        ("UNetResnet", {"backbone": "test_maxvit"}),
        ("GCN", {"backbone": "test_vit"}),
    ],
    ids=str,
)
def test_variants_keep_the_contract(name, arguments):
    model = build_small(name, **arguments)
    for size in SIZES[:3]:
        check_shapes(model, 3, images(*size))
    sum(output.square().sum() for output in outputs_of(model.train(), images(64, 64))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["PSPNet", "UperNet", "PSPDenseNet"])
def test_without_auxiliary_output_there_is_one_tensor(name):
    model = build_small(name, use_aux=False).train()
    assert isinstance(model(images(32, 32)), torch.Tensor)
