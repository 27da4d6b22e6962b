"""The mutants of ADM's encoder, resampling and classifier, and of what its flags and checkpoints become."""

from mutant import Mutant, mutants

PUBLISHED = "networks/test_adm_is_the_published_network.py"
POOLED = " ".join(
    f"{PUBLISHED}::test_poolings_{of}"
    for of in ("of_the_deepest_map_are_their_formulas", "by_features_read_the_mean_of_every_map")
)
IMPORTED = "importers/test_adm_checkpoints_become_stages.py::"

# fmt: off
MUTANTS: list[Mutant] = [
    *mutants("cascade/networks/adm_layers.py", f"{PUBLISHED}::test_the_output_is_the_plain_walks",
        ("enlarged before the convolution", "self.conv(F.interpolate(x, scale_factor=2.0, mode=\"nearest\"))",
         "F.interpolate(self.conv(x), scale_factor=2.0, mode=\"nearest\")"),
        ("each pixel 2×2 times", 'mode="nearest"', 'mode="bilinear"'),
        ("the mean of 2×2 pixels", "nn.AvgPool2d(2)", "nn.MaxPool2d(2)"),
    ),
    *mutants("cascade/networks/adm_encoder.py", f"{PUBLISHED}::test_the_output_is_the_plain_walks",
        ("heads of head_channels", "channels // self.head_channels\n", "self.heads\n"),
        ("heads by their number", "self.heads if self.head_channels is None", "1 if self.head_channels is None"),
        ("plain resampling by a convolution where asked", "conv=widths.conv_resample", "conv=True"),
    ),
    *mutants("cascade/networks/adm_encoder.py", f"{PUBLISHED}::test_parameters_are_as_many_as_published",
        ("channel_mult, shares too", "int(self.channel_mult[level] * self.channels)",
         "max(1, int(self.channel_mult[level])) * self.channels"),
        ("attention at divisors 2^level", "2**level in self.attention", "2**level // 2 in self.attention"),
    ),
    *mutants("cascade/networks/adm_classifier.py", POOLED,
        ("the embedding's SiLU", "F.silu(self.time_embed(clock))", "self.time_embed(clock)"),
        ("the mean's token is the first",
         "[tokens.mean(1, keepdim=True), tokens]", "[tokens, tokens.mean(1, keepdim=True)]"),
        ("the mean is one token", "tokens.mean(1, keepdim=True)", "tokens.amax(1, keepdim=True)"),
        ("places are added", "+ self.positional_embedding.T", "- self.positional_embedding.T"),
        ("[qkv, head, channel]", "self.heads, heads_first=False", "self.heads, heads_first=True"),
        ("heads of head_channels", "self.heads = channels // head_channels", "self.heads = 1"),
        ("the mean's token is read", "mixed[:, 0]", "mixed[:, 1]"),
        ("the average of the map", "nn.AdaptiveAvgPool2d((1, 1))", "nn.AdaptiveMaxPool2d((1, 1))"),
        ("of the deepest map", "else maps[-1]", "else maps[-2]"),
        ("features, the mean of each map", "m.mean((2, 3)) for m", "m.amax((2, 3)) for m"),
        ("features, max(0, h)", "nn.ReLU()", "nn.SiLU()"),
        ("features_norm, 32 groups", "nn.GroupNorm(32, 2048)", "nn.GroupNorm(16, 2048)"),
    ),
    *mutants("cascade/importers/adm_flags.py", f"{IMPORTED}test_a_network_is_what_its_shapes_and_the_other_flags_say",
        ("the newer order where the flag says so", 'if flags["use_new_attention_order"]',
         'if not flags["use_new_attention_order"]'),
        ("heads by their number where they have no width", "None if heads == -1", "64 if heads == -1"),
        ("a resolution is size/divisor", "{size // int(number) for", "{int(number) for"),
    ),
    *mutants("cascade/importers/adm_flags.py", f"{IMPORTED}test_a_classifier_is_the_network_on_its_ladder",
        ("a classifier's heads are 64 wide", '"head_channels": 64,\n        "q', '"head_channels": 32,\n        "q'),
        ("a classifier has the older order", '"qkv_order": "heads_first"', '"qkv_order": "qkv_first"'),
    ),
    *mutants("cascade/importers/adm_flags.py", f"{IMPORTED}test_presets_describe_the_released_networks",
        ("levels of 128 px", "128: (1, 1, 2, 3, 4)", "128: (1, 2, 2, 3, 4)"),
        ("levels of an upsampler to 512 px", "{512: (1, 1, 2, 2, 4, 4)}", "{512: (0.5, 1, 1, 2, 2, 4, 4)}"),
    ),
    *mutants("cascade/importers/adm.py", f"{IMPORTED}test_the_stage_is_the_network_on_its_ladder",
        ("250 of its steps", "min(250, ", "min(100, "),
        ("an embedded row for each class", 'else "label_emb.weight"', 'else "out.2.weight"'),
    ),
    *mutants("cascade/importers/adm.py", f"{IMPORTED}test_a_network_is_what_its_shapes_and_the_other_flags_say",
        ("steps told as of 1000", '"rescale": model.rescale', '"rescale": False'),
        ("the learned variance where there is one", '"learned" if model.learn_variance else "large"',
         '"large" if model.learn_variance else "learned"'),
    ),
    *mutants("cascade/importers/adm.py",
        f"{IMPORTED}test_an_upsampler_reads_the_clean_picture_and_fits_behind_its_base",
        ("an upsampler reads 3 + 3 channels", "3 if config.low_resolution is None else 6",
         "6 if config.low_resolution is None else 3"),
        ("its only level is clean", 'float("inf")', "0.0"),
    ),
]
