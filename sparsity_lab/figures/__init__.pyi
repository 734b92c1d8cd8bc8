from . import costs as costs
from . import laws as laws
from . import pruning as pruning
from . import routing as routing
from . import sparse_formats as sparse_formats
from . import sparsity_measures as sparsity_measures
from . import style as style
from . import task_scores as task_scores
