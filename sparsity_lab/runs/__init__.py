"""What do many runs say? Runs are trained once, kept in one store, and compared with intervals.

`store` keeps records and makes tables of them. `repeat` trains a list of runs and compares seeds, `grid` multiplies
lists out into runs, and `sweep` trains a grid. All train on every core: `pool` has worker processes (copies of
`forked` where the system can fork), `worker` is what one of them does for a run, `lanes` what it does for a dashboard,
with a `lock` that keeps a run for one kernel at a time, and `crew` hands runs out. A sweep can also use `gpus`, several
workers on each, or a `cluster`. `provenance` notes where a folder of records comes from, `measured` holds the runs
that ship with the suite, and `foreign` reads tables of other people's. Only workers import torch. Notebooks import
`run_all`, `summarise`, `gains`, `grid_runs`, `load_frame`, `load_runs` and `measured`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
