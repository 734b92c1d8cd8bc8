from .dashboard import MagicDial as MagicDial
from .explorer import Explorer as Explorer, choice as choice, pick as pick, slide as slide
from .predict import Predict as Predict
from .sweep_panel import SweepPanel as SweepPanel
