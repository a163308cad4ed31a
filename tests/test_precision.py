"""Number formats and compilation: the same training, in another form."""

import os

import pytest
import torch
from small_models import build_small, images, outputs_of
from torch import nn
from training import plain_config, trainer_of

from measuring import MeasuredTrainer
from models import MODELS
from models.enet import PReLU
from tools import lr_find
from trainer import Trainer
from utils.errors import ConfigError
from utils.hardware.devices import set_determinism
from utils.hardware.precision import autocast, resolve_precision
from utils.losses.pixel import CrossEntropyLoss2d
from utils.losses.table import WithAuxiliary

CPU = torch.device("cpu")
HEAVY = {"FCN8", "SegNet"}  # VGG16, whatever the size


def has_bf16(monkeypatch, **capabilities):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)


@pytest.mark.parametrize("name", ["avx512_bf16", "amx_bf16"])
def test_auto_is_bf16_where_a_cpu_has_it(monkeypatch, name):
    has_bf16(monkeypatch, **{name: True})
    assert resolve_precision("auto", CPU) == "bf16"
    has_bf16(monkeypatch, avx2=True)
    assert resolve_precision("auto", CPU) == "fp32"


def test_auto_is_bf16_where_a_gpu_has_it_in_hardware(monkeypatch):
    for supported, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(
            torch.cuda,
            "is_bf16_supported",
            lambda including_emulation, supported=supported: supported and not including_emulation,
        )
        assert resolve_precision("auto", torch.device("cuda")) == expected
    assert resolve_precision("auto", torch.device("mps")) == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_what_is_asked_for_is_used(precision):
    assert resolve_precision(precision, CPU) == precision
    with autocast(CPU, precision):
        dtype = torch.nn.Conv2d(1, 1, 1)(torch.ones(1, 1, 2, 2)).dtype
    assert (
        dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    )


@pytest.mark.parametrize("name", ["DeepLab", "PSPNet", "UNetResnet", "UperNet"])
def test_logits_are_float32_before_they_are_resized(name):
    for training in (True, False):
        model = build_small(name).train(training)
        with autocast(CPU, "bf16"):
            outputs = outputs_of(model, images(65, 65))
        for logits in outputs:
            assert logits.dtype == torch.float32
            assert not torch.equal(logits, logits.bfloat16().float())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_weights_loss_and_updates_stay_float32(tmp_path, precision):
    trainer = trainer_of(plain_config(tmp_path, precision=precision, epochs=1))
    metrics = trainer.train_epoch(1)
    assert 0 < metrics["loss"] < 10
    assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
    assert trainer.scaler.is_enabled() == (precision == "fp16")
    assert trainer.validate(1)["val_loss"] > 0


def test_a_run_may_go_on_with_another_precision(tmp_path):
    trainers = {one: trainer_of(plain_config(tmp_path, precision=one)) for one in ("fp32", "fp16")}
    trainers["fp16"].restore(trainers["fp32"].state())
    assert trainers["fp16"].scaler.get_scale() == 2.0**16
    trainers["fp32"].restore(trainers["fp16"].state())
    assert not trainers["fp32"].scaler.is_enabled()


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 5, 7), (3, 16, 6, 4), (1, 5, 1, 1)], ids=str)
def test_enets_activation_is_torchs_own(shape, layout):
    torch.manual_seed(0)
    ours, theirs = (kind(shape[1]).double() for kind in (PReLU, nn.PReLU))
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.uniform_(-1, 1))
    values = torch.randn(shape, dtype=torch.float64)
    values[0, :2] = 0  # the corner: a channel that dropout2d cleared
    values = values.contiguous(memory_format=layout)
    inputs = [values.clone().requires_grad_() for _ in range(2)]
    outputs = [act(x) for act, x in zip((ours, theirs), inputs, strict=True)]
    above = torch.randn_like(values)
    for output in outputs:
        output.backward(above)
    assert torch.equal(*outputs)
    assert outputs[0].is_contiguous(memory_format=layout)
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-12)
    assert torch.allclose(ours.weight.grad, theirs.weight.grad, rtol=1e-12)
    assert torch.equal(ours.eval()(inputs[0]), outputs[1])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-8)])
def test_enets_activation_is_as_exact_as_its_format(dtype, bound):
    """Against float64; 2^-8 is what rounding to bfloat16 once may change."""
    torch.manual_seed(0)
    found = []
    values, above = torch.randn(2, 2, 16, 40, 30).bfloat16()
    for kind, form in ((PReLU, dtype), (nn.PReLU, torch.float64)):
        x = values.contiguous(memory_format=torch.channels_last).to(form).requires_grad_()
        activation = kind(16, init=0.3, dtype=torch.promote_types(form, torch.float32))
        activation(x).backward(above.to(form))
        assert x.grad.dtype == form
        found.append((x.grad.double(), activation.weight.grad.double()))
    for ours, exact in zip(*found, strict=True):
        assert float((ours - exact).norm() / exact.norm()) < bound


def test_an_exported_activation_is_torchs_operator():
    program = torch.export.export(PReLU(4).eval(), (torch.randn(2, 4, 5, 6),))
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert calls == ["aten.prelu.default"]


def test_all_features_of_enet_are_in_autocasts_format():
    model, formats = build_small("ENet").train(), set()
    for module in model.modules():
        module.register_forward_hook(lambda _module, _inputs, output: formats.add(output[0].dtype))
    with autocast(CPU, "bf16"):
        model(images(64, 64))
    assert formats == {torch.bfloat16}


def test_channels_last_is_the_layout_of_weights_and_can_be_refused(tmp_path):
    for channels_last in (True, False):
        trainer = trainer_of(plain_config(tmp_path, channels_last=channels_last))
        weights = max(trainer.model.parameters(), key=lambda p: p.numel())
        assert weights.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert weights.is_contiguous() != channels_last


def test_deterministic_forbids_what_is_not(monkeypatch):
    chosen = []
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setattr(torch, "use_deterministic_algorithms", lambda *, mode: chosen.append(mode))
    set_determinism(deterministic=False)
    assert chosen == []
    set_determinism(deterministic=True)
    assert chosen == [True]
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    ("kind", "train"),
    [
        (Trainer, lambda trainer: trainer.train_epoch(1)),
        (MeasuredTrainer, lambda trainer: trainer.measure(1)),
        (Trainer, lambda trainer: lr_find.run(trainer, start=1e-6, end=1.0, steps=2)),
    ],
    ids=["train_epoch", "measure", "lr_find"],
)
def test_an_operation_without_a_deterministic_version_is_named(tmp_path, kind, train):
    trainer = trainer_of(plain_config(tmp_path), kind=kind)
    places = torch.zeros(1, dtype=torch.long)
    trainer.normalize.forward = lambda images: images.put_(places, images.flatten()[:1])
    torch.use_deterministic_algorithms(mode=True)
    try:
        with pytest.raises(ConfigError, match=r"no deterministic put_ on .*\n  fix: .*img_size"):
            train(trainer)
    finally:
        torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize(
    ("crop_size", "deterministic", "searching"),
    [(32, False, True), (32, True, False), (None, False, False)],
)
def test_cudnn_searches_in_training_steps_of_one_size_only(
    tmp_path, monkeypatch, crop_size, deterministic, searching
):
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: deterministic)
    config = plain_config(tmp_path)
    config["train_loader"]["args"] |= {"crop_size": crop_size, "base_size": None, "batch_size": 1}
    trainer, measured = trainer_of(config), trainer_of(config, kind=MeasuredTrainer)
    seen = set()
    for one in (trainer, measured):
        one.model.register_forward_hook(
            lambda model, *_: seen.add((model.training, torch.backends.cudnn.benchmark))
        )
    trainer.train_epoch(1)
    assert seen == {(True, searching)}
    trainer.validate(1)
    assert seen == {(True, searching), (False, False)}
    seen.clear()
    measured.measure(1)
    assert seen == {(True, searching)}
    assert not torch.backends.cudnn.benchmark


# Compilation.


def test_compile_compiles_what_is_trained_but_not_the_average(tmp_path):
    trainer = trainer_of(plain_config(tmp_path, compile=True, ema=0.9))
    assert trainer.model._compiled_call_impl is not None
    assert trainer.ema.model._compiled_call_impl is None
    assert trainer_of(plain_config(tmp_path)).model._compiled_call_impl is None


def training_step(name, images, masks, *, compiled, precision="fp32"):
    """Loss, gradients and buffers of one step of a small model, whose dtype is the images'."""
    model = build_small(name).train().to(images.dtype)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
    network = torch.compile(model, **compiled) if compiled else model
    loss_of = WithAuxiliary(CrossEntropyLoss2d(ignore_index=255))
    with autocast(CPU, precision):
        output = network(images)
    loss = loss_of(output, masks)
    loss.backward()
    gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    buffers = [value.to(images.dtype).flatten() for value in model.buffers()]
    return loss.detach(), gradients, torch.cat(buffers) if buffers else torch.zeros(1)


def close(ours, theirs, tolerance):
    return float((ours - theirs).norm()) <= tolerance * float(theirs.norm())


def inputs():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 64, 64, generator=generator)
    return images, torch.randint(0, 3, (2, 64, 64), generator=generator)


@pytest.mark.timeout(3600)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_compiled_in_one_graph_a_step_is_the_eager_step(name):
    torch.compiler.reset()
    eager = training_step(name, *inputs(), compiled={}, precision="fp32")
    options = {"fullgraph": True, "backend": "aot_eager"}
    found = training_step(name, *inputs(), compiled=options, precision="fp32")
    for ours, theirs in zip(found, eager, strict=True):
        assert close(ours, theirs, 1e-4)
    half = training_step(name, *inputs(), compiled=options, precision="bf16")
    assert all(value.isfinite().all() for value in half)


@pytest.mark.timeout(3600)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["ENet", "PSPNet"])
def test_inductors_step_is_the_eager_step(name):
    """In float64, where the comparison is sharp.

    A float32 gradient jumps when rounding turns the sign of one value before a PReLU: with these
    images one value of ENet's last activation, 1e-7 from zero, and the eager gradient in float32 is
    1.4 % from the eager one in float64. In float64 no value is as near to zero as its rounding.
    """
    torch.compiler.reset()
    images, masks = inputs()
    eager = training_step(name, images.double(), masks, compiled={})
    found = training_step(name, images.double(), masks, compiled={"fullgraph": True})
    for ours, theirs in zip(found, eager, strict=True):
        assert close(ours, theirs, 1e-10)


@pytest.mark.timeout(3600)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_recomputing_and_compiling_go_together():
    from utils.hardware.recompute import recompute_blocks

    torch.compiler.reset()
    images, _ = inputs()
    results = []
    for compiled in (False, True):
        model = build_small("UNetResnet").train()
        assert recompute_blocks(model.backbone) > 0
        network = torch.compile(model, backend="aot_eager") if compiled else model
        sum(output.square().mean() for output in outputs_of(network, images)).backward()
        results.append([*(p.grad for p in model.parameters()), *model.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert close(ours.float(), theirs.float(), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_both_formats_are_finite(name):
    for precision in ("fp32", "bf16"):
        found = training_step(name, *inputs(), compiled={}, precision=precision)
        assert all(value.isfinite().all() for value in found)


# Training in bf16: images of 256 x 256.


def losses(folder, arch, *, precision, seed, steps, dropout=True, batch_size=2, rate=0.01, **args):
    """The loss of each of the first iterations of a run."""
    config = plain_config(folder, precision=precision)
    config["seed"] = seed
    config["arch"] = {"type": arch, "args": args}
    images = {"height": 256, "width": 256, "batch_size": batch_size}
    config["train_loader"]["args"] |= {**images, "length": batch_size * steps, "base_size": 256}
    config["train_loader"]["args"]["crop_size"] = 256
    config["optimizer"] = {"type": "SGD", "args": {"lr": rate, "momentum": 0.9}}
    trainer = trainer_of(config)
    for module in trainer.model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and not dropout:
            module.p = 0.0
    found = []
    trainer.parts.train_loader.set_position(1)
    for batch in trainer.parts.train_loader:
        trainer.train_iteration([batch])
        found.append(trainer.totals.recent_loss())
    assert len(found) == steps
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_steps_of_enet_end_as_low_in_bf16(tmp_path):
    final = {
        precision: [
            sum(losses(tmp_path, "ENet", precision=precision, seed=seed, steps=100)[-10:]) / 10
            for seed in range(3)
        ]
        for precision in ("fp32", "bf16")
    }
    assert min(final["fp32"]) <= sum(final["bf16"]) / 3 <= max(final["fp32"]), final


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("PSPNet", {"backbone": "resnet50", "pretrained": False, "batch_size": 4, "rate": 2e-4}),
        ("UNet", {}),
    ],
    ids=["PSPNet", "UNet"],
)
def test_ten_steps_in_bf16_are_those_in_fp32(tmp_path, name, args):
    """Each loss within 2 %, where fp32 itself is that stable.

    Two images are too few for PSPNet: of the two values that its coarsest pooling gives a channel,
    normalization leaves the signs. From random weights at a rate of 0.01 its losses then halve in
    four steps and magnify whatever they start from: with weights rounded to bf16 once, or changed
    by a factor of 1 + 1e-5, ten losses in fp32 move by up to 13 % and 5 %. What magnifies is no
    operator: errors grow evenly over the layers, to 2 % of the last features, and turn the sign of
    one ReLU in a hundred, so that a gradient in bf16 is 13 % from that in float64 (9 % where fp32
    starts from rounded weights).
    """
    # Without dropout: its masks are drawn in the format of the features, so they would differ.
    exact, half = (
        losses(tmp_path, name, precision=precision, seed=0, steps=10, dropout=False, **args)
        for precision in ("fp32", "bf16")
    )
    assert half == pytest.approx(exact, rel=0.02)
