"""What accuracy fine-tuning will reach, from the kernel: the recipe simulated for the linearised network."""

from ntk_select.forecasting.cross_validation import Curve, Outlook, cross_validate
from ntk_select.forecasting.forecast import forecast
from ntk_select.forecasting.kernel import TrainingKernel, training_kernel
from ntk_select.forecasting.result import Forecast
from ntk_select.forecasting.simulate import simulate

__all__ = ["Curve", "Forecast", "Outlook", "TrainingKernel", "cross_validate", "forecast", "simulate", "training_kernel"]
