from .attention import Attention as Attention, rotations as rotations
from .cache import new_cache as new_cache
from .generation import generate as generate
from .megablocks import supplied as supplied, why_not as why_not
from .mla import LatentAttention as LatentAttention
from .router import route_plain as route_plain
from .transformer import Transformer as Transformer
