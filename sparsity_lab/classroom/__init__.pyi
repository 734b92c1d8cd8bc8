from .assignments import dice as dice
