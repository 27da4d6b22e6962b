"""A checkpoint of ADM (Dhariwal & Nichol 2021) and its flags, made into a stage or a classifier."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cascade.artifact import NETWORK_CONTEXT, StageConfig, StageSampling
from cascade.classifier import CLASSIFIER_CONTEXT, ClassifierConfig, build_classifier
from cascade.errors import CascadeError
from cascade.importers.adm_flags import ADMModel
from cascade.registry import build, complete

PREFIX, CLASSIFIER_PREFIX = "network.network.", "network."
"""Where the published names stand in a stage: in the network that a wrapper and the preconditioning hold; and in a
classifier, in the network that is told its steps."""

GIVE = "give the preset or flags it was made with"
"""What mends a checkpoint that does not fit its flags."""

POOL_KEYS = {
    "attention": ("out.2.c_proj.weight", 3),
    "average": ("out.3.weight", 4),
    "features": ("out.2.weight", 2),
    "features_norm": ("out.3.weight", 2),
}
"""The pooling of a classifier → the tensor that has a row for each class, and of how many dimensions it is."""


def is_pooled(pool: str, state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is of a classifier of that pooling.

    >>> import torch
    >>> is_pooled("average", {"out.3.weight": torch.zeros(10, 2048)})
    False
    """
    key, dimensions = POOL_KEYS[pool]
    return key in state and state[key].ndim == dimensions


def rows_of(model: ADMModel, state: Mapping[str, Tensor]) -> int:
    """How many classes a checkpoint embeds, or tells apart. Raises CascadeError for a classifier of another pooling."""
    key = POOL_KEYS[model.network["pool"]][0] if model.classifier else "label_emb.weight"
    if model.classifier and not is_pooled(model.network["pool"], state):
        raise CascadeError(f"the checkpoint does not fit its flags: it has no such '{key}'; is classifier_pool right?")
    return len(state[key]) if key in state else 0


def imported(
    model: ADMModel, state: Mapping[str, Tensor], name: str, class_names: tuple[str, ...], where: str
) -> tuple[StageConfig | ClassifierConfig, dict[str, Tensor]]:
    """Return what a stage or classifier says of itself, and its state, of flags and a checkpoint that fit together.

    Raises CascadeError naming the published key that does not fit, and for another number of names than of classes.
    """
    rows = rows_of(model, state)
    if model.classifier:
        classifier = classifier_config(model, name, rows, class_names)
        return classifier, classifier_state(classifier, state, where)
    stage = stage_config(model, name, rows, class_names)
    return stage, stage_state(stage, state, where)


def classifier_config(model: ADMModel, name: str, rows: int, class_names: tuple[str, ...]) -> ClassifierConfig:
    """Describe a classifier, whose `rows` classes have these names in order; it shares the ladder of what it guides."""
    betas = complete("schedule", model.betas)
    build("schedule", betas)  # says what is wrong with it before anything is written
    if rows != len(class_names):
        raise CascadeError(f"the checkpoint tells {rows} classes apart, and {len(class_names)} names are given")
    return ClassifierConfig(
        name=name,
        resolution=model.resolution,
        network={key: value for key, value in model.network.items() if key not in CLASSIFIER_CONTEXT},
        class_names=class_names,
        betas=betas,
        rescale=model.rescale,
    )


def classifier_state(config: ClassifierConfig, state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the state of the classifier. Raises CascadeError naming the published key that does not fit."""
    import torch

    with torch.device("meta"):
        network: Any = build_classifier(config).network
    check_keys(network.state_dict(), state, where)
    return {CLASSIFIER_PREFIX + key: value for key, value in state.items()}


def stage_config(model: ADMModel, name: str, rows: int, class_names: tuple[str, ...]) -> StageConfig:
    """Describe the stage of a denoiser; sampled as ADM samples: 250 of its steps, x̂ clipped, the learned variance.

    `class_names` names the `rows` of the class embedding in order. An upsampler's only augmentation level is +inf: it
    was trained on clean low-res pictures. Raises CascadeError unless there is a name for each row.
    """
    if rows != len(class_names):
        raise CascadeError(f"the checkpoint embeds {rows} classes, and {len(class_names)} names are given")
    betas = complete("schedule", model.betas)
    build("schedule", betas)  # says what is wrong with it before anything is written
    steps = min(250, betas["steps"])
    base = model.low_resolution is None
    return StageConfig(
        name=name,
        resolution=model.resolution,
        low_resolution=model.low_resolution,
        class_names=class_names,
        network={key: value for key, value in model.network.items() if key not in NETWORK_CONTEXT},
        preconditioning={
            "name": "eps_steps",
            "betas": betas,
            "rescale": model.rescale,
            "learn_variance": model.learn_variance,
        },
        augmentation={"name": "none"},
        low_res={"name": "augmented" if base else "concatenated"},
        sampling=StageSampling(
            sampler={"name": "ancestral", "variance": "learned" if model.learn_variance else "large"},
            grid={"name": "adm_respaced", "betas": betas, "respacing": str(steps)},
            threshold={"name": "static"},
            aug_log_snr=None if base else float("inf"),
        ),
    )


def stage_state(config: StageConfig, state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the state of the stage's denoiser. Raises CascadeError naming the published key that does not fit."""
    import torch

    with torch.device("meta"):
        network: Any = build(
            "network",
            config.network,
            in_channels=3 if config.low_resolution is None else 6,
            out_channels=6 if config.preconditioning["learn_variance"] else 3,
            num_classes=len(config.class_names),
            augment_dim=0,
        )
    check_keys(network.state_dict(), state, where)
    return {PREFIX + key: value for key, value in state.items()}


def check_keys(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Refuse a state that the flags do not describe, naming its first key that does not fit."""
    for key, tensor in own.items():
        if key not in state:
            raise CascadeError(f"{where} does not fit its flags: it has no '{key}'; {GIVE}")
        if state[key].shape != tensor.shape:
            shapes = f"{tuple(state[key].shape)}, and by the flags {tuple(tensor.shape)}"
            raise CascadeError(f"{where} does not fit its flags: '{key}' is {shapes}; {GIVE}")
    for key in state:
        if key not in own:
            raise CascadeError(f"{where} does not fit its flags: it has '{key}', which they do not describe; {GIVE}")
