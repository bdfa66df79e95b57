"""Training: the optimisation step, data feeding, checkpoints, fine-tuning, and training of zoos."""

from ntk_select.training.loop import DivergedError as DivergedError
from ntk_select.training.loop import TrainState as TrainState
from ntk_select.training.loop import begin as begin
from ntk_select.training.loop import cross_entropy as cross_entropy
from ntk_select.training.loop import make_step as make_step
from ntk_select.training.loop import mean_cross_entropy as mean_cross_entropy
from ntk_select.training.loop import sgd as sgd
from ntk_select.training.loop import train_epochs as train_epochs
