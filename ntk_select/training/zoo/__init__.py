"""How does a zoo of experts come from one config file?"""

from .config import ZooConfig as ZooConfig
from .config import read_config as read_config
from .members import MultiMember as MultiMember
from .members import SingleMember as SingleMember
from .members import members as members
from .plan import Work as Work
from .plan import plan as plan
from .run import train_zoo as train_zoo
