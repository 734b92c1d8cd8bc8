from .batches import validation_batches as validation_batches
from .corpus import load_corpus as load_corpus
from .tasks import SOURCE_SHARE as SOURCE_SHARE, TASKS as TASKS, examples as examples
from .trainer import Training as Training, train as train
