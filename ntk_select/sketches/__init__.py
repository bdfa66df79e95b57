"""Gradients projected at random: kernels of any number of examples for little more than the gradients, and their error."""

from ntk_select.sketches.estimate import SketchedKernel
from ntk_select.sketches.score import SketchedScore, sketched_correlation
from ntk_select.sketches.sketch import sketch
from ntk_select.sketches.spec import Sketch

__all__ = ["Sketch", "SketchedKernel", "SketchedScore", "sketch", "sketched_correlation"]
