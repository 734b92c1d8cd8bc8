from . import comparisons as comparisons, criteria as criteria, data_pruning as data_pruning
from . import expert_pruning as expert_pruning, graphs as graphs, pruning as pruning, routing as routing
from . import sparse_formats as sparse_formats, sparsity_measures as sparsity_measures, story as story
from . import task_scores as task_scores
