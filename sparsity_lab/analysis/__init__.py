"""What did a model learn, and what can go? Experts and their tokens, measures of sparsity, and pruning.

`routing` shows which expert reads which token; `sparsity_measures` says how sparse a vector is, `criteria` what a good
measure should do, and `graphs` how sparse a network is. `pruning` turns weights off, `expert_pruning` removes or merges
experts, `data_pruning` drops training text, and `sparse_formats` times what zeros save. `task_scores` examines models
on tasks with exact answers, `comparisons` names the kind of model with the lowest loss, if the seeds decide, and
`story` judges the claims that people make about sparsity. Notebooks import these files
whole, as in ``from sparsity_lab.analysis import pruning``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
