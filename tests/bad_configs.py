"""A short config, and what can be wrong with one: the change, and the whole message."""

from utils.config.config import Config

SHORT = {
    "name": "short",
    "arch": {"type": "UNet"},
    "train_loader": {"type": "Shapes", "args": {"batch_size": 8, "shuffle": True}},
    "val_loader": {"type": "Shapes", "args": {"batch_size": 8, "split": "val", "val": True}},
}
TOP = ", ".join(sorted(field.alias or name for name, field in Config.model_fields.items()))
NAME = (
    "name: expected a name for a folder: letters, digits and _ - + = . , @ ( ) or space inside, "
    "at most 100 bytes, and no device of Windows such as CON or COM1, got "
)

# What is laid over SHORT (None takes a key away), and the whole message.
BAD = {
    "misspelt": ({"seeed": 1}, f"seeed: unknown key; did you mean 'seed'? Known: {TOP}"),
    "wrong case": ({"Seed": 1}, f"Seed: unknown key; did you mean 'seed'? Known: {TOP}"),
    "unknown": ({"zebra": 1}, f"zebra: unknown key. Known: {TOP}"),
    "misspelt and needed": (
        {"arch": None, "acrh": {"type": "UNet"}},
        f"acrh: unknown key; did you mean 'arch'? Known: {TOP}",
    ),
    "misspelt val_loader": (
        {"val_loader": None, "val_loder": {}},
        f"val_loder: unknown key; did you mean 'val_loader'? Known: {TOP}",
    ),
    "key of trainer": ({"epochs": 3}, "epochs: unknown key; it belongs under trainer"),
    "key of the top level": (
        {"trainer": {"seed": 3}},
        "trainer.seed: unknown key; it belongs under no section, at the top level",
    ),
    "argument beside args": (
        {"val_loader": {"type": "Shapes", "batch_size": 3, "args": {"batch_size": 3}}},
        "val_loader.batch_size: unknown key; it belongs under val_loader.args",
    ),
    "argument at the top level": (
        {"batch_size": 3},
        "batch_size: unknown key; it belongs under train_loader.args or val_loader.args",
    ),
    "argument of another section": (
        {
            "arch": {"type": "UNet", "args": {"lr": 0.1}},
            "optimizer": {"type": "SGD", "args": {"lr": 1}},
        },
        "arch.args.lr: unknown argument of UNet; it belongs under optimizer.args",
    ),
    "argument of a part": (
        {"loss": {"type": "Sum", "args": {"parts": [{"type": "FocalLoss", "args": {"gama": 2}}]}}},
        (
            "loss.args.parts[0].args.gama: unknown argument of FocalLoss; did you mean 'gamma'? "
            "Known: alpha, gamma"
        ),
    ),
    "value in a part of a part": (
        {
            "loss": {
                "type": "Sum",
                "args": {
                    "parts": [
                        {"type": "DiceLoss"},
                        {
                            "type": "Sum",
                            "args": {"parts": [{"type": "DiceLoss", "args": {"smooth": -1}}]},
                        },
                    ]
                },
            }
        },
        "loss.args.parts[1].args.parts[0].args.smooth: expected a number >= 0, got -1",
    ),
    "missing name": ({"name": None}, 'name: missing; add "name": "my_run"'),
    "missing arch": ({"arch": None}, 'arch: missing; add "arch": {"type": "UNet"}'),
    "missing type": ({"arch": {}}, "arch.type: missing; add it"),
    "missing val_loader": (
        {"val_loader": None},
        (
            'val_loader: missing; add "val_loader": {"type": ..., "args": {...}}, or set '
            "trainer.val to "
            "false to train without validation"
        ),
    ),
    "missing argument": (
        {"train_loader": {"type": "Shapes"}},
        "train_loader.args.batch_size: missing; Shapes needs it",
    ),
    "text for a number": ({"seed": "1"}, 'seed: expected an integer, got "1"'),
    "fraction": ({"n_gpu": 1.5}, "n_gpu: expected an integer, got 1.5"),
    "true for a number": ({"seed": True}, "seed: expected an integer, got true"),
    "number for true": ({"deterministic": 1}, "deterministic: expected true or false, got 1"),
    "null": ({"trainer": {"epochs": None}}, "trainer.epochs: expected an integer, got null"),
    "number for an object": ({"trainer": 3}, "trainer: expected an object in { }, got 3"),
    "list for an object": ({"arch": []}, "arch: expected an object in { }, got []"),
    "bare name": (
        {"lr_scheduler": "Poly"},
        'lr_scheduler: expected an object, {"type": "Poly"}, got "Poly"',
    ),
    "list for args": (
        {"lr_scheduler": {"type": "Poly", "args": []}},
        "lr_scheduler.args: expected an object in { }, got []",
    ),
    "object for text": ({"init_from": {}}, "init_from: expected text in quotes, got {}"),
    "too small": ({"trainer": {"epochs": 0}}, "trainer.epochs: expected a number >= 1, got 0"),
    "too large": (
        {"ignore_index": 70000},
        "ignore_index: expected a number <= 32767, got 70000",
    ),
    "not above": (
        {"trainer": {"clip_grad_norm": 0}},
        "trainer.clip_grad_norm: expected a number > 0, got 0",
    ),
    "not below": ({"trainer": {"ema": 1}}, "trainer.ema: expected a number < 1, got 1"),
    "empty text": (
        {"trainer": {"save_dir": ""}},
        'trainer.save_dir: expected at least 1 character(s), got ""',
    ),
    "unknown choice": (
        {"trainer": {"precision": "fp23"}},
        (
            "trainer.precision: expected 'auto', 'fp32', 'bf16' or 'fp16', got \"fp23\"; did "
            "you mean "
            "'fp32'?"
        ),
    ),
    "unknown metric": (
        {"trainer": {"monitor": "max mIoU"}},
        (
            "trainer.monitor: expected 'off', 'max Mean_IoU', 'max Pixel_Accuracy', 'max "
            "val_loss', 'min Mean_IoU', 'min Pixel_Accuracy' or 'min val_loss' or a class's IoU, "
            "Dice, Precision or Recall, such as 'max IoU/road', got \"max mIoU\"; did you mean "
            "'max Mean_IoU'?"
        ),
    ),
    "misspelt argument": (
        {"arch": {"type": "UNet", "args": {"base_chanels": 8}}},
        (
            "arch.args.base_chanels: unknown argument of UNet; did you mean 'base_channels'? "
            "Known: "
            "base_channels, freeze_backbone, freeze_bn, in_channels, pretrained"
        ),
    ),
    "argument of another model": (
        {"lr_scheduler": {"type": "Poly", "args": {"momentums": [0.1, 0.2]}}},
        (
            "lr_scheduler.args.momentums: unknown argument of Poly (but of OneCycle); delete "
            "the line "
            '"momentums": [0.1, 0.2]'
        ),
    ),
    "argument of the program": (
        {"loss": {"type": "DiceLoss", "args": {"ignore_index": 3}}},
        (
            "loss.args.ignore_index: set by the program, from the top-level key ignore_index; "
            "delete "
            "it here"
        ),
    ),
    "ill-typed argument": (
        {"arch": {"type": "UNet", "args": {"pretrained": 3}}},
        "arch.args.pretrained: expected true or false or text in quotes, got 3",
    ),
    "argument out of range": (
        {"optimizer": {"type": "SGD", "args": {"lr": 0.1, "momentum": 1.5}}},
        "optimizer.args.momentum: expected a number < 1, got 1.5",
    ),
    "momentum out of range": (
        {"lr_scheduler": {"type": "OneCycle", "args": {"momentums": [0.85, 1.0]}}},
        "lr_scheduler.args.momentums[1]: expected a number < 1, got 1.0",
    ),
    "wrong entry of a list": (
        {"lr_scheduler": {"type": "OneCycle", "args": {"momentums": [0.1, "x"]}}},
        'lr_scheduler.args.momentums[1]: expected a number, got "x"',
    ),
    "short list": (
        {"lr_scheduler": {"type": "OneCycle", "args": {"momentums": [0.1]}}},
        "lr_scheduler.args.momentums: expected one entry more, got [0.1]",
    ),
    "part of a sum": (
        {"loss": {"type": "Sum", "args": {"parts": [{"type": "DiceLoss", "wight": 2}]}}},
        (
            "loss.args.parts[0]: unknown key 'wight'; did you mean 'weight'? Known: args, "
            "type, weight,"
            ' got {"type": "DiceLoss", "wight": 2}'
        ),
    ),
    "part of a sum without type": (
        {"loss": {"type": "Sum", "args": {"parts": [{"weight": 2}]}}},
        "loss.args.parts[0].type: missing",
    ),
    "monitor without validation": (
        {"trainer": {"val": False, "monitor": "min val_loss"}},
        (
            'trainer.monitor: "min val_loss" needs validation, and trainer.val is false; set '
            'trainer.val to true, or trainer.monitor to "off"'
        ),
    ),
    "monitor and early stop without validation": (
        {"trainer": {"val": False, "monitor": "min val_loss", "early_stop": 3}},
        (
            'trainer.monitor: "min val_loss" needs validation, and trainer.val is false; set '
            'trainer.val to true, or trainer.monitor to "off" and trainer.early_stop to 0'
        ),
    ),
    "early stop without monitor": (
        {"trainer": {"monitor": "off", "early_stop": 3}},
        (
            "trainer.early_stop: 3 needs a result to watch, and nothing is monitored; set "
            'trainer.early_stop to 0 or trainer.monitor to "max Mean_IoU"'
        ),
    ),
    "SyncBN without processes": (
        {"use_synch_bn": True, "parallel": "DataParallel"},
        (
            "use_synch_bn: statistics over all GPUs need a process for each, and parallel is "
            '"DataParallel"; set parallel to "DDP" or use_synch_bn to false'
        ),
    ),
    "name that leads out": ({"name": "../x"}, f'{NAME}"../x"'),
    "name with a slash": ({"name": "a/b"}, f'{NAME}"a/b"'),
    "hidden name": ({"name": ".x"}, f'{NAME}".x"'),
    "name of dots": ({"name": ".."}, f'{NAME}".."'),
    "no name": ({"name": ""}, f'{NAME}""'),
    "name with a line break": ({"name": "a\nb"}, f'{NAME}"a\\nb"'),
    "name ending in a space": ({"name": "a "}, f'{NAME}"a "'),
    "long name": ({"name": "é" * 51}, f'{NAME}"{"é" * 51}"'),
    "device of Windows": ({"name": "Aux.2"}, f'{NAME}"Aux.2"'),
    "port of Windows": ({"name": "com1"}, f'{NAME}"com1"'),
    "number for a name": ({"name": 3}, "name: expected text in quotes, got 3"),
    "long value": ({"seed": "x" * 200}, f'seed: expected an integer, got "{"x" * 56}...'),
}
