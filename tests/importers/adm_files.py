"""Checkpoints of small networks of ADM's, under the published key names, and the flags that describe them."""

import json

import torch

from cascade.networks.adm import ADMUNet

FLAGS = {
    "image_size": 64,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,1",
    "attention_resolutions": "32",
    "num_head_channels": 16,
    "resblock_updown": True,
    "use_new_attention_order": True,
    "class_cond": True,
    "learn_sigma": True,
    "noise_schedule": "cosine",
    "use_fp16": True,
}
HELD_BACK = [
    # Heads by their number, the other order, plain resampling, no scale-shift; no classes, no variance, other widths.
    (
        {"channel_mult": "1,2", "attention_resolutions": "16,8", "num_heads": 2, "resblock_updown": False,
         "use_scale_shift_norm": False, "num_res_blocks": 2, "rescale_timesteps": True, "diffusion_steps": 250},
        {"channel_mult": (1, 2), "attention": (1, 2), "heads": 2, "head_channels": None, "qkv_order": "heads_first",
         "residual_resample": False, "scale_shift": False, "blocks": 2},
    ),
    # Wider, with as many channels in two levels, and plain resampling beside scale-shift.
    (
        {"num_channels": 64, "channel_mult": "1,1,2", "attention_resolutions": "4,8", "num_heads": 4,
         "num_res_blocks": 1, "class_cond": True},
        {"channels": 64, "channel_mult": (1, 1, 2), "attention": (2, 4), "heads": 4, "head_channels": None,
         "qkv_order": "heads_first", "residual_resample": False, "blocks": 1, "num_classes": 4},
    ),
    # Shares of the channels, and attention nowhere but in the middle.
    (
        {"num_channels": 64, "channel_mult": "0.5,1.5", "attention_resolutions": "32", "num_head_channels": 32,
         "num_res_blocks": 3, "resblock_updown": True, "diffusion_steps": 500},
        {"channels": 64, "channel_mult": (0.5, 1.5), "attention": (), "head_channels": 32, "qkv_order": "heads_first",
         "blocks": 3},
    ),
    # Three levels, of which a resolution names none; the order of the newer models; classes and a learned variance.
    (
        {"channel_mult": "2,1,3", "attention_resolutions": "8,1", "num_head_channels": 32, "class_cond": True,
         "use_new_attention_order": True, "learn_sigma": True, "noise_schedule": "cosine", "resblock_updown": True},
        {"channel_mult": (2, 1, 3), "attention": (2,), "head_channels": 32, "qkv_order": "qkv_first", "blocks": 2,
         "num_classes": 4, "out_channels": 6},
    ),
]  # fmt: skip
UNTOLD = {
    "image_size", "small_size", "large_size", "num_heads", "num_head_channels", "use_new_attention_order", "dropout",
    "noise_schedule", "diffusion_steps", "rescale_timesteps",
}  # fmt: skip
"""The flags that no shape tells."""


def untold(flags):
    return {flag: value for flag, value in flags.items() if flag in UNTOLD}


def network(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = ADMUNet(
            num_classes=5,
            channels=32,
            channel_mult=(1, 1),
            blocks=1,
            head_channels=16,
            null_label=False,
            **{"attention": (2,), "out_channels": 6, **options},
        )
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return made.eval()


def checkpoint(folder, flags=FLAGS, **options):
    made = network(**options)
    torch.save(made.state_dict(), folder / "model.pt")
    (folder / "model.json").write_text(json.dumps(flags))
    return made
