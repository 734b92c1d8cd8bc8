"""The sandbox of submissions: a small world that holds Python, this package and a home that is thrown away.

With Linux namespaces (as root, or as anyone where user namespaces are allowed) the code sees no other file, no other
process and no network, and all that it writes is in memory. Without them, root can still run it as a user who owns
nothing; what such a user leaves is removed after each submission. Both need only util-linux.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sparsity_lab.units import size

Kind = Literal["namespaces", "user", "none"]

USERS = range(61_000, 61_184)  # nobody's numbers: above people's, below those that systemd hands out
WRITTEN = 256 << 20  # bytes that one submission may write
COMMON = ("/tmp", "/var/tmp", "/dev/shm")  # where any user may write
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
        """Returns the command that runs ``command`` inside. ``shared`` holds the root or the home of one submission."""
        limits = ["prlimit", f"--as={self.memory}", f"--nproc={PROCESSES}", "--core=0", "--fsize=100000000"]

        # An environment without the grader's variables, and few threads: each takes address space.
        home = Path("/home") if self.kind == "namespaces" else shared / "home"
        clean = [
            "env",
            "-i",
            f"--chdir={home}",
            f"HOME={home}",
            f"TMPDIR={home}",
            "USER=student",
            "PYTHONDONTWRITEBYTECODE=1",
        ]
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
        world = ["sh", str(WORLD), str(shared / "root"), str(WRITTEN), *seen, "--"]
        return [*dies_with_grader, *unshare, *world, *inner]

    @property
    def _as_user(self) -> list[str]:
        return [f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups"]

    def folder(self, shared: Path) -> None:
        """Makes the folders of one submission in ``shared``."""
        for name in ("root", "home"):
            (shared / name).mkdir()
        if self.uid is not None:
            shared.chmod(0o711)
            os.chown(shared / "home", self.uid, self.uid)

    def written(self) -> int:
        """Returns the bytes that a submission has written. In namespaces the kernel counts them, and has a limit."""
        if self.kind != "user":
            return 0
        listing = self._find("-printf", "%s\n")
        return sum(int(line) for line in listing.split() if line.isdigit())

    def clean_up(self, shared: Path) -> None:
        """Ends what is left of a submission's processes, and removes its files. Namespaces take theirs with them."""
        if self.kind == "user":
            everything = ["sh", "-c", "kill -KILL -1"]  # that this user may signal
            subprocess.run(["setpriv", *self._as_user, "--", *everything], check=False, capture_output=True)
            self._find("-delete")
            for kind, option in (("shm", "-m"), ("sem", "-s"), ("msg", "-q")):
                names, *rows = [line.split() for line in Path(f"/proc/sysvipc/{kind}").read_text().splitlines()]
                for row in rows:
                    if int(row[names.index("uid")]) == self.uid:
                        subprocess.run(["ipcrm", option, row[1]], check=False, capture_output=True)
        for name in ("root", "home"):  # by a program that no depth of folders stops
            subprocess.run(["rm", "-rf", str(shared / name)], check=False, capture_output=True)

    def _find(self, *action: str) -> str:
        """Does something with every file of this user where all users may write."""
        places = [place for place in COMMON if os.path.isdir(place)]
        command = ["find", *places, "-xdev", "-user", str(self.uid), *action]
        return subprocess.run(command, check=False, capture_output=True, text=True, errors="replace").stdout

    def __str__(self) -> str:
        network = "with access to the network" if self.network else "without a network"
        if self.kind == "none":
            return f"NONE! Student code runs as you and can do whatever you can, {network}"
        who = "as you, without rights" if self.uid is None else f"as user {self.uid}"
        world = "in Linux namespaces, where it sees only Python and this package" if self.kind == "namespaces" else ""
        limits = f"at most {size(self.memory)} and {PROCESSES} threads"
        return f"student code runs {'; '.join(filter(None, (who, world, network, limits)))}"


@contextmanager
def lent(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Yields the sandbox with a user who belongs to this submission alone: no other grading on this machine has it
    until the end, so ending all its processes ends nobody else's."""
    if sandbox.uid is None or sandbox.kind == "none":
        yield sandbox
        return
    users = USERS if sandbox.uid in USERS else [sandbox.uid]
    folder = Path(tempfile.gettempdir()) / "sparsity-lab-users"
    folder.mkdir(mode=0o700, exist_ok=True)
    for uid in users:
        with open(folder / str(uid), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if uid != users[-1] else 0))
            except OSError:
                continue
            yield replace(sandbox, uid=uid)
            return


def forget_the_dead() -> None:
    """Removes the folders of gradings that were killed."""
    for path in Path(tempfile.gettempdir()).glob("lab-*-*"):
        pid = path.name.split("-")[1]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists() and Path("/proc").exists():
            subprocess.run(["rm", "-rf", str(path)], check=False, capture_output=True)


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
        return USERS[0]
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
