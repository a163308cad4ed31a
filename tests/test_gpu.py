"""What only a GPU can show: `pytest -m gpu`, on a machine that has one."""

import time

import pytest
import torch
from training import batches_of, plain_config, record_gradients, relative_difference, trainer_of

from base.base_data_loader import BaseDataLoader
from measuring import MeasuredTrainer
from utils.errors import ResourceError
from utils.hardware.prefetch import on_device

pytestmark = pytest.mark.gpu


def first_step(config, device, *, double=False):
    trainer = trainer_of(config, device)
    if double:
        trainer.model.double()
        own = trainer.normalize.double()
        # Its float32 is rounded once on a GPU and twice on a CPU, which is 3e-8 in the gradient.
        trainer.normalize = lambda images: torch.addcmul(own.shift, images.double(), own.scale)
    gradients = record_gradients(trainer)
    batches = list(on_device(batches_of(trainer)[:1], trainer.device))
    trainer.train_iteration(batches)
    return trainer, gradients[0].cpu()


def test_a_step_is_that_of_the_cpu(tmp_path):
    """In float32 throughout; torch lets cuDNN's convolutions use TF32 unless told otherwise.

    This gradient in float32 is 6e-7 from that in float64, and with the operands of its convolutions
    rounded to TF32's ten bits it is 2e-3 from it: sums in another order stay below the bound, TF32
    does not.
    """
    config = plain_config(tmp_path)
    on_cpu, theirs = first_step(config, "cpu")
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        on_gpu, ours = first_step(config, "cuda")
    finally:
        convolutions.fp32_precision = before
    assert relative_difference(ours, theirs) < 1e-4
    assert on_gpu.totals.recent_loss() == pytest.approx(on_cpu.totals.recent_loss(), rel=1e-4)


@pytest.mark.parametrize("name", ["ENet", "DeepLab"])
def test_the_loops_that_a_cpu_has_of_its_own_compute_the_same(tmp_path, name):
    config = plain_config(tmp_path)
    mobile = {"backbone": "test_efficientnet", "pretrained": False, "separable": True}
    args = {"freeze_bn": True, **(mobile if name == "DeepLab" else {})}
    config["arch"] = {"type": name, "args": args}
    (_, theirs), (_, ours) = (first_step(config, device, double=True) for device in ("cpu", "cuda"))
    assert relative_difference(ours, theirs) < 1e-8


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("loss", ["CrossEntropyLoss2d", "CE_DiceLoss", "LovaszSoftmax"])
def test_ten_steps_never_wait_for_the_device(tmp_path, precision, loss):
    config = plain_config(tmp_path, precision=precision, accumulate=2, ema=0.9, clip_grad_norm=1.0)
    config["loss"] = loss
    trainer = trainer_of(config, "cuda")
    batches = list(on_device(batches_of(trainer)[:2], trainer.device))
    trainer.train_iteration(batches)  # cuDNN and allocator settle
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            trainer.train_iteration(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.log_iteration(1)["loss"] > 0


def test_batches_arrive_whole_and_in_order(tmp_path):
    trainer = trainer_of(plain_config(tmp_path))
    loader: BaseDataLoader = trainer.parts.train_loader
    expected = batches_of(trainer)
    loader.set_position(1)
    for ours, theirs in zip(on_device(loader, torch.device("cuda")), expected, strict=True):
        assert ours.images.device.type == "cuda"
        assert torch.equal(ours.images.cpu(), theirs.images)
        assert torch.equal(ours.masks.cpu(), theirs.masks)


def test_deterministic_runs_are_bit_for_bit_equal(tmp_path):
    config = plain_config(tmp_path) | {"deterministic": True}
    torch.use_deterministic_algorithms(mode=True)
    try:
        (_, first), (_, second) = first_step(config, "cuda"), first_step(config, "cuda")
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert torch.equal(first, second)


def test_running_out_of_memory_names_smaller_batches(tmp_path):
    trainer = trainer_of(plain_config(tmp_path), "cuda", kind=MeasuredTrainer)
    trainer.normalize.forward = lambda images: torch.empty(2**50, device=images.device)
    with pytest.raises(ResourceError, match=r"batch_size=2 trainer\.accumulate=2"):
        trainer.measure(1)


def test_phases_add_up_to_the_time_that_passed(tmp_path):
    trainer = trainer_of(plain_config(tmp_path), "cuda", kind=MeasuredTrainer)
    started = time.perf_counter()
    seconds, images = trainer.measure(20)
    assert images == 80
    assert 0 < sum(seconds.values()) <= time.perf_counter() - started
    assert min(seconds["forward"], seconds["backward"], seconds["optimizer"]) > 0


@pytest.mark.filterwarnings("ignore")  # of what torch's compiler imports and advises
@pytest.mark.parametrize("name", ["ENet", "UNet"])
def test_a_compiled_step_is_the_eager_step(tmp_path, name):
    """In float64, where no rounding turns the sign of a value before a PReLU.

    In float32 two right answers of ENet differ by percents: where such a value is as near to zero
    as its rounding, the gradient jumps. In float64 they agree to rounding, 6e-17 on a CPU; a
    constant that a kernel kept in float32 would show as 1e-8, a wrong kernel as far more.
    """
    config = plain_config(tmp_path)
    config["arch"]["type"] = name
    config["arch"]["args"] = {"freeze_bn": True}
    _, eager = first_step(config, "cuda", double=True)
    config["trainer"]["compile"] = True
    _, compiled = first_step(config, "cuda", double=True)
    assert relative_difference(compiled, eager) < 1e-6
