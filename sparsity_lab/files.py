"""Where the lab keeps things, and the one way in which it writes them."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

DATA = Path(__file__).resolve().parents[1] / "data"  # what ships with the suite; absent where only the package is


def home() -> Path:
    """Returns the folder of a user's runs: ``$SPARSITY_LAB_HOME``, or the system's folder for a user's data."""
    return Path(os.environ.get("SPARSITY_LAB_HOME") or platformdirs.user_data_dir("sparsity-lab"))


def cache_dir() -> Path:
    """Returns the folder of what can be made again: ``$SPARSITY_LAB_CACHE``, or the user's cache folder."""
    folder = os.environ.get("SPARSITY_LAB_CACHE") or platformdirs.user_cache_dir("sparsity-lab")
    return Path(folder).expanduser()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path``; what is written there takes its place at the end, synced to disk.

    A reader, a kill or a crash of the machine at any moment finds the old file or the new one. Makes the folder. After
    an error, the old file is as it was and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())  # or a power cut may leave a file of the right size with the wrong content
        os.replace(temporary, path)
    except BaseException:  # an interrupt too
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, as `atomic` does."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def unwritable(folder: Path, error: OSError) -> str:
    """Returns in words that nothing can be saved in a folder, why, and the way out."""
    way_out = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make it writable"
    why = os.strerror(error.errno) if error.errno else error
    return f"{folder} can't be written ({why}; {way_out})"
