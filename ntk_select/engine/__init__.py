"""The exact empirical neural tangent kernel of any function, by the structure of its layers."""

from ntk_select.engine.certificate import Certificate, certify
from ntk_select.engine.kernel import ntk, ntk_plan
from ntk_select.engine.plan import Plan
from ntk_select.engine.routes import ntk_vector_product
from ntk_select.engine.structure import GeneralRouteWarning

__all__ = ["Certificate", "GeneralRouteWarning", "Plan", "certify", "ntk", "ntk_plan", "ntk_vector_product"]
