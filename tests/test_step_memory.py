"""What a run holds no longer than it needs it."""

import json

from torch.multiprocessing.reductions import StorageWeakRef
from training import batches_of, plain_config, trainer_of

import train
from trainer import Trainer
from utils.run import checkpoint


def memory_of(tensor):
    return StorageWeakRef(tensor.untyped_storage())


def forwards_without_older_logits(trainer):
    """Let every forward pass look for the logits of those before; return the list of passes."""
    passes = []

    def look(*_):
        assert all(logits.expired() for logits in passes)

    trainer.model.register_forward_pre_hook(look)
    trainer.model.register_forward_hook(
        lambda _model, _images, logits: passes.append(memory_of(logits))
    )
    return passes


def test_the_logits_of_a_micro_batch_do_not_live_through_the_next_forward(tmp_path):
    trainer = trainer_of(plain_config(tmp_path, accumulate=3))
    passes = forwards_without_older_logits(trainer)
    trainer.train_iteration(batches_of(trainer))
    assert len(passes) == 3


def test_the_logits_of_a_validation_batch_do_not_live_through_the_next_forward(tmp_path):
    config = plain_config(tmp_path)
    config["val_loader"]["args"]["batch_size"] = 1
    trainer = trainer_of(config)
    passes = forwards_without_older_logits(trainer)
    trainer.validate(1)
    assert len(passes) == 4


def test_the_images_that_a_validation_shows_keep_no_batch(tmp_path, monkeypatch):
    trainer, shown = trainer_of(plain_config(tmp_path)), []
    monkeypatch.setattr("trainer.comparison_sheet", lambda images, _: shown.extend(images))
    trainer.validate(1)
    assert len(shown) == 1
    for tensor in shown[0]:
        assert tensor.shape[-2:] == (32, 32)
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_a_resumed_state_is_not_kept_beside_the_model(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(plain_config(tmp_path, epochs=1, ema=0.9)))
    assert train.main(["--config", str(path)]) == 0
    loaded, alive = [], []
    load = checkpoint.load

    def noted(file):
        content = load(file)
        average = content.get("ema", {"state_dict": {}})  # a best model has none
        tensors = [*content["state_dict"].values(), *average["state_dict"].values()]
        loaded.extend(map(memory_of, tensors))
        return content

    monkeypatch.setattr(checkpoint, "load", noted)
    monkeypatch.setattr(
        Trainer, "fit", lambda *_: alive.extend(one for one in loaded if not one.expired())
    )
    (folder,) = (tmp_path / "saved" / "tiny").iterdir()
    assert train.main(["--resume", str(folder), "--set", "trainer.epochs=2"]) == 0
    assert len(loaded) > 100
    assert alive == []
