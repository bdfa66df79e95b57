"""Does the kernel of this very model obey the laws that every exact kernel obeys?"""

from ntk_select.selfcheck.record import Check, SelfCheck
from ntk_select.selfcheck.run import selfcheck

__all__ = ["Check", "SelfCheck", "selfcheck"]
