"""Networks: tensors in, tensors out. They know no schedule, no loss and no sampler.

Every network is called as `network(x, log_snr, label=None, augment=None, extra=None)` and returns
(B, out_channels, H, W). `BaseNetwork` and `LowResConditioned` give it the signature that a preconditioning calls.
"""

from cascade.networks.dropout import Dropout, seeded_dropout
from cascade.networks.efficient import EfficientUNet
from cascade.networks.low_res import BaseNetwork, LowResConcatenated, LowResConditioned

__all__ = ["BaseNetwork", "Dropout", "EfficientUNet", "LowResConcatenated", "LowResConditioned", "seeded_dropout"]
