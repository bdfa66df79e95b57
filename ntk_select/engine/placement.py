"""On which devices do arrays lie?"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ntk_select.engine.choice import padded


class Placement:
    """Where arrays lie: on the default device, or the examples spread over a mesh."""

    def __init__(self, mesh: Mesh | None):
        # Explicit axes, as jax.make_mesh gives them, would bind arrays to a context.
        self.mesh = None if mesh is None else Mesh(mesh.devices, mesh.axis_names)
        self.devices = 1 if mesh is None else mesh.size

    def on_host(self, dtype) -> bool:
        """Whether NumPy can reach the arrays without a copy and multiply them."""
        return self.mesh is None and jax.devices()[0].platform == "cpu" and dtype in (np.float32, np.float64)

    def everywhere(self, tree):
        """Arrays that every device needs whole."""
        return jax.device_put(tree) if self.mesh is None else jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def spread(self, tree):
        """Arrays whose leading axis is examples."""
        if self.mesh is None:
            return jax.device_put(tree)
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names)))

    def padded(self, n: int) -> int:
        """Length of a buffer for n examples."""
        multiple = padded(n)
        return multiple if self.mesh is None else -(-multiple // self.devices) * self.devices
