"""Pictures of fits, in scikit-learn's manner. matplotlib lives here, imported when one is drawn."""

from .convergence import ConvergenceDisplay
from .curve_fit import CurveFitDisplay

__all__ = ["ConvergenceDisplay", "CurveFitDisplay"]
