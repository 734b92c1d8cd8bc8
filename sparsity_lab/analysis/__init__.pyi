from . import criteria as criteria, data_pruning as data_pruning, expert_pruning as expert_pruning, graphs as graphs
from . import pruning as pruning, routing as routing, sparse_formats as sparse_formats
from . import sparsity_measures as sparsity_measures, story as story, task_scores as task_scores
