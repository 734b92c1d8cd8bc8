"""What do many runs say? Runs are trained once, kept in one store, and compared with intervals.

`store` keeps records and makes tables of them. `repeat` trains a list of runs and compares seeds, `grid` multiplies
lists out into runs, and `sweep` trains a grid on every core or on a cluster (`worker` is one of its processes). `pool`
has the processes in which runs train, `lanes` what they do for a dashboard. `provenance` notes where a folder of
records comes from, `measured` holds the runs that ship with the suite. Only what trains imports torch. Notebooks import
`run_all`, `summarise`, `gains`, `grid_runs`, `load_frame` and `measured`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
