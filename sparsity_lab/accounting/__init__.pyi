from .cost import bill as bill, decode_work as decode_work, experts_touched as experts_touched
from .cost import utilisation as utilisation
from .devices import DEVICES as DEVICES, device as device
from .flops import CONVENTIONS as CONVENTIONS, abnar_flops_per_token as abnar_flops_per_token
from .flops import active_flops_6nd as active_flops_6nd, causal_flops_per_token as causal_flops_per_token
from .flops import decode_flops_by_part as decode_flops_by_part, flops_by_part as flops_by_part
from .flops import flops_per_step as flops_per_step, flops_per_token as flops_per_token
from .flops import flops_skipping_zeros as flops_skipping_zeros
from .flops import mtp_flops as mtp_flops, plan as plan
from .memory import attention_twins as attention_twins, cache_bytes as cache_bytes
from .memory import cache_elements_per_layer as cache_elements_per_layer
from .train_memory import training_memory as training_memory
from .parameters import attention_matrices as attention_matrices, EMBEDDINGS as EMBEDDINGS, Parameters as Parameters
from .parameters import count_parameters as count_parameters
from .presets import PRESETS as PRESETS, pasted_model as pasted_model, preset as preset
