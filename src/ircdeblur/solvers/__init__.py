"""Solvers: ADMM with sparse gradients and its x-updates."""

from ircdeblur.solvers.admm import Iteration, Result, XUpdate, admm
from ircdeblur.solvers.cg import ConjugateGradients
from ircdeblur.solvers.fourier import FourierDivision, TiledFourierDivision
from ircdeblur.solvers.irc import IteratedResidualCompensation
from ircdeblur.solvers.settings import METHODS, Settings, deconvolve, estimate_noise
from ircdeblur.solvers.shrinkage import shrink

__all__ = [
    "METHODS",
    "ConjugateGradients",
    "FourierDivision",
    "IteratedResidualCompensation",
    "Iteration",
    "Result",
    "Settings",
    "TiledFourierDivision",
    "XUpdate",
    "admm",
    "deconvolve",
    "estimate_noise",
    "shrink",
]
