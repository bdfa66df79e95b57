"""The exact empirical neural tangent kernel of any function, by the structure of its layers."""

from ntk_select.kernels.engine.analyse import GeneralRouteWarning
from ntk_select.kernels.engine.certificate import Certificate, certify
from ntk_select.kernels.engine.ntk import ntk, ntk_fn, ntk_plan
from ntk_select.kernels.engine.plan import Plan
from ntk_select.kernels.engine.vector_product import ntk_vector_product

__all__ = ["Certificate", "GeneralRouteWarning", "Plan", "certify", "ntk", "ntk_fn", "ntk_plan", "ntk_vector_product"]
