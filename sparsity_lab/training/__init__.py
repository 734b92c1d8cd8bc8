"""How does text become weights? From a text and a budget of FLOPs to a trained model and its record.

`corpus` prepares a text, `tasks` makes one with exact answers, `batches` cuts it into what a step reads, `kinds` names
the kinds of token in it, and `reading` asks a model which experts read which. `trainer` runs the steps, `compiled`
makes fast code of a step, `checkpoint` saves and resumes a run, `distributed` shares one among several processes, and
`timing` says how long a run will take on this machine. Notebooks import `load_corpus`, `train` and `Training`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
