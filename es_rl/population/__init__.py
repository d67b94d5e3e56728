"""Many perturbed copies of one module in one forward pass."""

from es_rl.population.forward import Population, perturb

__all__ = ["Population", "perturb"]
