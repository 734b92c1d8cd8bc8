"""What does it cost? Parameters, FLOPs, bytes, hours and money of a model, by arithmetic on its config.

`parameters` counts weights, `flops` operations, `memory` the bytes that are stored and moved, and `train_memory` those
that training holds. `formats` knows how many bytes a compressed number takes, and `fits` what each of several GPUs
holds. `cost` turns counts into time and money on one of the `devices`. `presets` holds published models, by their
makers' settings and numbers, and `hf_config` turns the settings of any ``config.json`` into a config. Devices and
presets are data, in TOML files. Nothing here imports torch. Notebooks import the counts, the cost of a run, devices and
presets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
