"""Random projections of gradients: kernel estimates of many examples at the cost of the gradients, with their error."""

from ntk_select.kernels.sketches.estimate import SketchedKernel
from ntk_select.kernels.sketches.projection import Sketch
from ntk_select.kernels.sketches.score import SketchedScore, sketched_correlation
from ntk_select.kernels.sketches.sketch import sketch, sketch_fn

__all__ = ["Sketch", "SketchedKernel", "SketchedScore", "sketch", "sketch_fn", "sketched_correlation"]
