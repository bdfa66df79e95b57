"""Forecasts of the accuracy after fine-tuning: the recipe simulated for the linearised network."""

import warnings

from ntk_select.forecasting.cross_validation import Curve, RateForecast, cross_validate
from ntk_select.forecasting.forecast import forecast
from ntk_select.forecasting.kernel import TrainingKernel, training_kernel
from ntk_select.forecasting.result import Forecast
from ntk_select.forecasting.simulate import simulate

__all__ = ["Curve", "Forecast", "RateForecast", "TrainingKernel", "cross_validate", "forecast", "simulate", "training_kernel"]


def __getattr__(name: str):
    if name != "Outlook":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(f"{__name__}.Outlook is deprecated. Try: {__name__}.RateForecast", DeprecationWarning, stacklevel=2)
    return RateForecast
