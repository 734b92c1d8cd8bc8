"""What does it cost? Parameters, FLOPs, bytes, hours and money of a model, by arithmetic on its config.

`shape` describes a model by what is counted, layer by layer. `parameters` counts weights, `flops` operations, `memory`
the bytes that are stored and moved, and `train_memory` those that training holds. `formats` knows how many bytes a
compressed number takes, and `fits` what each of several GPUs holds. `cost` turns counts into time and money on one of
the `devices`. `presets` holds published models, by their makers' settings and numbers. `hf_config` turns a
``config.json`` into a shape: `hf_types` lists the types of models, whose readers are in `hf_dense`, `hf_experts`,
`hf_deepseek` and `hf_recurrent` and share `hf_layers`; `hf_vision` counts the part of a model that sees; `hf_settings`
reads settings, and what the models' classes take for those that are left out. Devices, presets and the classes'
defaults are data, in TOML files. Nothing here imports torch. Notebooks import the counts, the cost of a run, devices
and presets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
