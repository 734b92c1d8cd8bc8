from . import curves as curves, fair as fair, fitting as fitting, isoflop as isoflop
from .optimum import optimal as optimal
from .published import LAWS as LAWS
