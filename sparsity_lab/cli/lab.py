"""Open the notebooks in JupyterLab, those of the repository or your own copy."""

import argparse
import os
import socket
import sys
from pathlib import Path

from sparsity_lab.classroom.learners_copy import put
from sparsity_lab.files import SHIPPED, SUITE, unwritable

START = "notebooks/00_start_here.ipynb"
SETTINGS = Path(__file__).with_name("lab_settings")  # defaults, over which the reader's own settings take precedence
# JupyterLab does not ask for news or updates, nor ask the reader for permission to do so.
NO_NEWS = [
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate",
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "where your copy of the notebooks is, or is put; in the repository, leave it out: its own are opened"
    add("folder", nargs="?", type=Path, metavar="FOLDER", help=what)
    add("--restore", action="store_true", help="put back what you have deleted from FOLDER")
    add("--ip", default="127.0.0.1", help="address to serve on (default 127.0.0.1, this machine only)")
    add("--port", type=int, help="port to serve on (default: 8888, or the next free one)")
    add("--no-browser", action="store_true", help="only print the address")
    add("--jupyter", nargs=argparse.REMAINDER, default=[], metavar="...", help="the rest is options for JupyterLab")


def run(options: argparse.Namespace) -> int:
    if options.port is not None and not 0 <= options.port <= 65535:
        raise ValueError(f"port={options.port} must be from 0 to 65535")
    _check_address(options.ip)
    folder = _prepare(options.folder, options.restore)
    if folder is None:
        return 1

    print(f"JupyterLab on {folder / START}, served on {options.ip}; Ctrl-C ends it", flush=True)
    server = [f"--ServerApp.root_dir={folder}", f"--LabApp.default_url=/lab/tree/{START}"]
    server += [f"--LabApp.app_settings_dir={SETTINGS}", *NO_NEWS, f"--ServerApp.ip={options.ip}"]
    server += [f"--port={options.port}"] if options.port is not None else []
    server += ["--no-browser"] if options.no_browser else []
    server += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []

    from jupyterlab.labapp import LabApp

    LabApp.launch_instance([*server, *options.jupyter])
    return 0


def _check_address(ip: str) -> None:
    """Raises ValueError if nothing can be served on an address, which JupyterLab would answer with a traceback."""
    try:
        family = socket.getaddrinfo(ip, None)[0][0]
        socket.create_server((ip, 0), family=family).close()
    except OSError as error:
        reason = f"ip={ip!r} can't be served on ({error.strerror})"
        raise ValueError(f"{reason}: use 127.0.0.1, or 0.0.0.0 for every address of this machine") from None


def _prepare(folder: Path | None, restore: bool) -> Path | None:
    """Returns the whole path of the folder to serve, with the notebooks in it; None if they can't be put there."""
    if SUITE != SHIPPED:
        if folder is not None:
            raise ValueError(f"FOLDER={str(folder)!r} is for an installed wheel; here, notebooks are opened in {SUITE}")
        if not (SUITE / START).exists():
            raise ValueError(f"{SUITE / START} does not exist: install the wheel, or keep the repository together")
        return SUITE
    if folder is None:
        raise ValueError("FOLDER is missing: where shall your notebooks be? For example: sparsity-lab lab my-lab")
    try:
        for line in put(SUITE, folder, restore):
            print(line)
    except OSError as error:
        print(f"sparsity-lab: {unwritable(folder, error)}", file=sys.stderr)
        return None
    return folder.resolve()
