"""The sandbox of submissions: a small world that holds Python, this package and a home that is thrown away.

With Linux namespaces (as root, or as anyone where user namespaces are allowed) a kernel sees no other file, no other
process and no network. Without them, root can still run it as a user who owns nothing. Both need only util-linux.
"""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sparsity_lab.units import size

Kind = Literal["namespaces", "user", "none"]

USER = 61_000  # no user's number: above people's, below those that systemd hands out
PROCESSES = 64  # and threads, of one submission
PACKAGE = Path(__file__).resolve().parents[1]
WORLD = PACKAGE / "classroom" / "world.sh"
# Torch reads how many cores there are from the last one.
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/sys/devices/system/cpu")

# Tries what a kernel needs, and what it must not reach: any network but its own, and the paths given.
PROBE = """
import os, socket, sys
import sparsity_lab.models.transformer
peak = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmPeak'))
print('peak', int(peak) * 1024)
print('network', any(name != 'lo' for _, name in socket.if_nameindex()))
for path in sys.argv[1:]:
    if os.access(path, os.R_OK):
        print('reads', path)
"""


@dataclass(frozen=True)
class Sandbox:
    kind: Kind
    uid: int | None  # None: the user who grades
    memory: int  # bytes of address space
    network: bool = True

    def command(self, command: Sequence[str], shared: Path) -> list[str]:
        """Returns the command that runs ``command`` inside. ``shared`` is the one folder that both sides see; each
        kernel has its own."""
        limits = ["prlimit", f"--as={self.memory}", f"--nproc={PROCESSES}", "--core=0", "--fsize=100000000"]

        # An environment without the grader's variables, and few threads: each takes address space.
        home = Path("/home") if self.kind == "namespaces" else shared / "home"
        clean = ["env", "-i", f"--chdir={home}", f"HOME={home}", "USER=student", "PYTHONDONTWRITEBYTECODE=1"]
        clean += [f"{name}={os.environ[name]}" for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ]
        clean += ["OMP_NUM_THREADS=1", "SPARSITY_LAB_CORES=1", "MALLOC_ARENA_MAX=2", f"PYTHONPATH={PACKAGE.parent}"]
        if self.kind == "none":
            return [*limits, *clean, *command]

        # A user without rights.
        dies_with_grader = ["setpriv", "--pdeathsig=KILL", "--"]
        no_rights = ["--bounding-set=-all", "--inh-caps=-all"]  # the namespace's root has none in it either
        drop = no_rights if self.uid is None else self._as_user
        inner = [*limits, "setpriv", *drop, "--no-new-privs", "--", *clean, *command]
        if self.kind == "user":
            return [*dies_with_grader, *inner]

        # A world of its own.
        unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
        unshare += [] if self.uid is not None else ["--user", "--map-root-user"]
        python = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
        seen = [*SYSTEM, *sorted(map(str, {*python, PACKAGE, PACKAGE.parent / "data"}))]
        world = ["sh", str(WORLD), str(shared / "root"), str(shared / "kernel"), *seen, "--"]
        return [*dies_with_grader, *unshare, *world, *inner]

    @property
    def _as_user(self) -> list[str]:
        return [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]

    def folder(self, shared: Path) -> Path:
        """Makes the folders of one kernel in ``shared``; returns the one in which it may put its sockets."""
        for name in ("root", "kernel", "home"):
            (shared / name).mkdir()
        if self.uid is not None:
            shared.chmod(0o711)
            for name in ("kernel", "home"):
                os.chown(shared / name, self.uid, self.uid)
        return shared / "kernel"

    def clean_up(self) -> None:
        """Ends what is left of a submission's processes. Namespaces end theirs by themselves."""
        if self.kind == "user":
            everything = ["sh", "-c", "kill -KILL -1"]  # that this user may signal
            subprocess.run(["setpriv", *self._as_user, "--", *everything], check=False, capture_output=True)

    def __str__(self) -> str:
        network = "with access to the network" if self.network else "without a network"
        if self.kind == "none":
            return f"NONE! Student code runs as you and can do whatever you can, {network}"
        who = "as you, without rights" if self.uid is None else f"as user {self.uid}"
        world = "in Linux namespaces, where it sees only Python and this package" if self.kind == "namespaces" else ""
        limits = f"at most {size(self.memory)} and {PROCESSES} threads"
        return f"student code runs {'; '.join(filter(None, (who, world, network, limits)))}"


def choose(user: str | None, unsandboxed: bool, memory: int, hidden: Sequence[Path]) -> Sandbox:
    """Returns the strongest sandbox that works here. It was tried: it starts Python, sees none of ``hidden``, and knows
    whether it has a network. ``memory`` bytes come on top of what importing the lab takes.

    Raises ValueError, with what to do, where there is none.
    """
    uid = _number_of(user) if user is not None or os.geteuid() == 0 else None
    if unsandboxed:
        return _tried(Sandbox("none", None, memory), [])

    problems = []
    kinds: tuple[Kind, ...] = ("namespaces", "user") if uid is not None else ("namespaces",)
    for kind in kinds:
        try:
            if shutil.which("unshare" if kind == "namespaces" else "setpriv") is None:
                raise ValueError("needs util-linux")
            return _tried(Sandbox(kind, uid, memory), hidden)
        except ValueError as error:
            problems.append(f"{kind}: {error}")
    raise ValueError(
        f"no sandbox works here ({'; '.join(problems)}). Grade in a container (docs/teaching.md) or, if you trust "
        f"every line that was handed in, with --unsandboxed"
    )


def _number_of(user: str | None) -> int:
    if os.geteuid() != 0:
        raise ValueError(f"user={user!r}: only root can run code as another user; leave it out")
    if user is None:
        return USER
    try:
        uid = int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ValueError(f"user={user!r} does not exist here: create it, or leave it out") from None
    if uid == 0:
        raise ValueError(f"user={user!r} is root, who can do anything: name a user without rights, or leave it out")
    return uid


def _tried(sandbox: Sandbox, hidden: Sequence[Path]) -> Sandbox:
    """Returns the sandbox with its memory and network as `PROBE` found them. Raises ValueError if it does not work."""
    with tempfile.TemporaryDirectory(prefix="lab-") as name:
        shared = Path(name)
        sandbox.folder(shared)
        wide = replace(sandbox, memory=1 << 46)
        command = wide.command([sys.executable, "-c", PROBE, *map(str, hidden)], shared)
        run = subprocess.run(command, capture_output=True, text=True, timeout=120)

    if run.returncode:
        raise ValueError((run.stderr.strip().splitlines() or ["it did not start"])[-1])
    found = [line.split(maxsplit=1) for line in run.stdout.splitlines()]
    readable = [value for key, value in found if key == "reads"]
    if readable:
        raise ValueError(f"student code could read {readable[0]}: chmod -R o-rwx it")
    facts = dict(found)
    return replace(sandbox, memory=int(facts["peak"]) + sandbox.memory, network=facts["network"] == "True")
