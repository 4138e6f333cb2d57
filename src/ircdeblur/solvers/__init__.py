"""Solvers: residual compensation with memory, ADMM with its x-updates, and the classical methods."""

from ircdeblur.solvers.admm import Iteration, Result, XUpdate, admm
from ircdeblur.solvers.cg import ConjugateGradients
from ircdeblur.solvers.classical import laplacian, richardson_lucy, wiener
from ircdeblur.solvers.domain import Observation
from ircdeblur.solvers.epll import epll
from ircdeblur.solvers.fourier import FourierDivision, TiledFourierDivision
from ircdeblur.solvers.irc import IteratedResidualCompensation
from ircdeblur.solvers.mm import majorise_minimise
from ircdeblur.solvers.settings import METHODS, Settings, deconvolve, estimate_noise, prior_weight, unsaturated
from ircdeblur.solvers.shrinkage import shrink, shrink_length

__all__ = [
    "METHODS",
    "ConjugateGradients",
    "FourierDivision",
    "IteratedResidualCompensation",
    "Iteration",
    "Observation",
    "Result",
    "Settings",
    "TiledFourierDivision",
    "XUpdate",
    "admm",
    "deconvolve",
    "epll",
    "estimate_noise",
    "laplacian",
    "majorise_minimise",
    "prior_weight",
    "richardson_lucy",
    "shrink",
    "shrink_length",
    "unsaturated",
    "wiener",
]
