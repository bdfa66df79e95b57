"""Random projections of gradients: kernel estimates of many examples at the cost of the gradients, with their error."""

from ntk_select.kernels.sketches.correlation import SketchedScore, sketched_correlation
from ntk_select.kernels.sketches.projection import Sketch
from ntk_select.kernels.sketches.sketch import sketch, sketch_fn
from ntk_select.kernels.sketches.sketched_kernel import SketchedKernel

__all__ = ["Sketch", "SketchedKernel", "SketchedScore", "sketch", "sketch_fn", "sketched_correlation"]
