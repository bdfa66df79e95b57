"""Forecasts of the accuracy after fine-tuning: the recipe simulated for the linearised network."""

from ntk_select._moved import renamed
from ntk_select.forecasting.cross_validation import Curve, RateForecast, cross_validate
from ntk_select.forecasting.forecast import forecast
from ntk_select.forecasting.kernel import TrainingKernel, training_kernel
from ntk_select.forecasting.order_value import OrderValue, order_value
from ntk_select.forecasting.result import Forecast
from ntk_select.forecasting.simulate import simulate

__all__ = [
    "Curve",
    "Forecast",
    "OrderValue",
    "RateForecast",
    "TrainingKernel",
    "cross_validate",
    "forecast",
    "order_value",
    "simulate",
    "training_kernel",
]

__getattr__ = renamed(__name__, {"Outlook": "RateForecast"})
