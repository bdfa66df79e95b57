"""The linearised theory of fine-tuning: predicted curves, the linearised network, and real training to compare with.

Defaults: the paper's loss, "half_sum", except "mean" in `run_experiment` and `ntk-select dynamics`; full batches, by gradient flow in
`loss_curve`, `predict` and `time_to_loss`, by gradient descent in `compare_training`, `run_experiment` and
`max_stable_lr`.
"""

from ntk_select._moved import renamed
from ntk_select.linearized.compare import Comparison, compare_training
from ntk_select.linearized.evidence import LabelEvidence, label_evidence
from ntk_select.linearized.layers import LayerFactors, layer_factors
from ntk_select.linearized.loss_curve import loss_curve, time_to_loss
from ntk_select.linearized.losses import targets
from ntk_select.linearized.network import Linearized, NetworkKernel, linearize, network_kernel
from ntk_select.linearized.predict import Prediction, predict
from ntk_select.linearized.ridge import kernel_ridge
from ntk_select.linearized.stability import max_stable_lr
from ntk_select.linearized.theory import generalization_score, initial_speed, label_spectrum, speed_bound
from ntk_select.linearized.train import Trajectory, draw_batches, train

__all__ = [
    "Comparison",
    "LabelEvidence",
    "LayerFactors",
    "Linearized",
    "NetworkKernel",
    "Prediction",
    "Trajectory",
    "compare_training",
    "draw_batches",
    "generalization_score",
    "initial_speed",
    "kernel_ridge",
    "label_evidence",
    "label_spectrum",
    "layer_factors",
    "linearize",
    "loss_curve",
    "max_stable_lr",
    "network_kernel",
    "predict",
    "speed_bound",
    "targets",
    "time_to_loss",
    "train",
]

__getattr__ = renamed(__name__, {"beside": "compare_training", "Beside": "Comparison"})
