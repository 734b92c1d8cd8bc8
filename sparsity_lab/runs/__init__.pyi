from . import measured as measured
from .foreign import load_runs as load_runs
from .grid import grid_runs as grid_runs, read_grid as read_grid
from .repeat import gains as gains, run_all as run_all, summarise as summarise
from .store import RunStore as RunStore, load_frame as load_frame, to_frame as to_frame, user_store as user_store
