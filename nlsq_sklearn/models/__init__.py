"""Ready models: curves of the textbooks, with bounds and a first guess from the data.

Each is a plain function ``model(x, *params)`` with three attributes: ``bounds``, which a fit takes
that is given none; ``guess``, which ``p0="auto"`` asks for a start; ``formula``, a line of text.
Models of one's own may have them too, set by `curve_model` or by plain assignment.

On 200 random problems of each kind (150 to 350 rows in any order, evenly spaced, at random or in
clusters, with noise of 0.1 to 5 % of the range, and truths over a broad range), ``p0="auto"`` led
to the answer of a fit that was started at the truth, within 5 joint standard errors of the truth,
in all 200 for each of the thirteen.

Called outside of a fit they compute as JAX does, in float32 unless `jax.enable_x64` says otherwise;
within a fit, and in `StreamingCurveFitRegressor.predict`, always in float64.

Examples
--------
>>> import numpy as np
>>> from nlsq_sklearn import StreamingCurveFitRegressor
>>> from nlsq_sklearn.models import gaussian
>>> X = np.linspace(0, 10, 1000).reshape(-1, 1)
>>> y = np.asarray(gaussian(X[:, 0], 3.0, 4.0, 0.7, 1.0))
>>> regressor = StreamingCurveFitRegressor(gaussian, p0="auto").fit(X, y)
>>> print(regressor.popt_.round(3))
[3.  4.  0.7 1. ]
"""

from .._streams import Profile
from ._attributes import curve_model
from .decays import biexponential, damped_sine, exponential_decay, stretched_exponential
from .laws import GAS_CONSTANT, arrhenius, power_law
from .peaks import gaussian, lorentzian, pseudo_voigt
from .saturations import hill, logistic4, logistic5, michaelis_menten

__all__ = [
    "GAS_CONSTANT",
    "Profile",
    "arrhenius",
    "biexponential",
    "curve_model",
    "damped_sine",
    "exponential_decay",
    "gaussian",
    "hill",
    "logistic4",
    "logistic5",
    "lorentzian",
    "michaelis_menten",
    "power_law",
    "pseudo_voigt",
    "stretched_exponential",
]
