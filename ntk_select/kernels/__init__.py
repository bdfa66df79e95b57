"""Kernels: the exact engine, random projections, gradient kernels of experts, files and plots."""

from ntk_select.kernels.alignment import feature_kernel as feature_kernel
from ntk_select.kernels.alignment import kernel_label_correlation as kernel_label_correlation
from ntk_select.kernels.alignment import label_kernel as label_kernel
