from .assignments import canary as canary
from .assignments import dice as dice
from .assignments import flops as flops
from .check import check_notebook as check_notebook
