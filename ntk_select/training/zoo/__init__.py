"""Training of a zoo of experts from one config file."""

from ntk_select.training.zoo.config import ZooConfig as ZooConfig
from ntk_select.training.zoo.members import MultiMember as MultiMember
from ntk_select.training.zoo.members import SingleMember as SingleMember
from ntk_select.training.zoo.members import members as members
from ntk_select.training.zoo.plan import Work as Work
from ntk_select.training.zoo.plan import plan as plan
from ntk_select.training.zoo.reading import read_config as read_config
from ntk_select.training.zoo.run import train_zoo as train_zoo
