"""Where the lab keeps things, the one way in which it writes them, and how it reads what may not be its own."""

import errno
import os
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
SHIPPED = _PACKAGE / "shipped"  # in a wheel alone: what setup.py puts there of the repository
SUITE = SHIPPED if SHIPPED.exists() else _PACKAGE.parent  # has notebooks/, data/ and docs/
DATA = SUITE / "data"  # absent where somebody copied only the package
LARGEST = 10_000_000  # bytes of a file that is read as a whole; the lab's own have some thousands
MOST_ASIDE = 3  # files that are kept of those set aside in one place


class StrangeFile(UserWarning):
    """A file that is not what its name says was passed over or set aside, or one could not be kept. Users are told."""


def home() -> Path:
    """Returns the folder of a user's runs: ``$SPARSITY_LAB_HOME``, or the system's folder for a user's data."""
    if folder := os.environ.get("SPARSITY_LAB_HOME"):
        return Path(folder)
    import platformdirs  # here, so that files are written atomically also where nothing is installed

    return Path(platformdirs.user_data_dir("sparsity-lab"))


def cache_dir() -> Path:
    """Returns the folder of what can be made again: ``$SPARSITY_LAB_CACHE``, or the user's cache folder."""
    if folder := os.environ.get("SPARSITY_LAB_CACHE"):
        return Path(folder).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("sparsity-lab"))


def check_regular(path: Path) -> os.stat_result:
    """Raises OSError, without opening it, for what is no regular file: to open a pipe would wait for a writer, and a
    device may have no end. Returns what the system knows of the file."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is {'a folder' if stat.S_ISDIR(found.st_mode) else 'no regular file'}")
    return found


def read_bytes(path: Path, largest: int = LARGEST) -> bytes:
    """Returns what is in a regular file. Raises OSError for anything else, and for more bytes than ``largest``."""
    if (size := check_regular(path).st_size) > largest:
        raise OSError(f"{path} has {size:,} bytes, more than {largest:,}")
    return path.read_bytes()


def set_aside(path: Path) -> Path:
    """Moves away what lies in a place that the lab needs, to a name beside it that ends in ``.aside``; returns that. Of
    the files set aside in one place, the last `MOST_ASIDE` are kept. Raises OSError if it can't be moved."""
    aside = path.with_name(f"{path.name}.{datetime.now():%Y%m%d-%H%M%S-%f}.aside")
    path.rename(aside)
    beside = [each for each in path.parent.iterdir() if each.stem.startswith(f"{path.name}.") and each.match("*.aside")]
    for each in sorted(beside)[:-MOST_ASIDE]:
        with suppress(OSError):  # a folder, in which there may be something of worth
            each.unlink()
    return aside


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
        if path.is_dir() and not path.is_symlink():
            warnings.warn(f"{path} is a folder: kept as {set_aside(path).name}", StrangeFile, stacklevel=3)
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
