"""Serves the dashboard and nothing else; `make app` runs this. docs/app.md says what a visitor can do.

It is Voilà with only those of its addresses that the page needs. Each visitor has a kernel and a folder of their own,
which go when the page is closed.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
import tomllib
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import resources
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
from jupyter_core.utils import run_sync
from jupyter_server.base.handlers import FileFindHandler
from jupyter_server.services.kernels.handlers import KernelHandler
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import PeriodicCallback
from tornado.web import HTTPError
from traitlets import Float, Int
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.static_file_handler import MultiStaticFileHandler, TemplateStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler
from voila.voila_identity_provider import VoilaIdentityProvider

from sparsity_lab.files import SUITE, cache_dir
from sparsity_lab.training.corpus import load_corpus
from sparsity_lab.widgets.settings import CORPORA

HERE = Path(__file__).resolve().parent
PROTOCOL = "v1.kernel.websocket.jupyter.org"
ONE = 0.7e9  # bytes of memory that a visitor's kernel takes while it trains two models
SECONDS_BETWEEN_LOOKS = 2.0


class Page(TornadoVoilaHandler):
    """The dashboard, for those who have the token."""

    def get_login_url(self) -> str:
        raise HTTPError(403, reason="Open the whole link, with its token")


class Kernel(KernelHandler):
    """Whether a kernel is alive."""

    SUPPORTED_METHODS = ("GET",)


class Channels(VoilaKernelWebsocketHandler):
    """What a page and its kernel say to each other: messages of widgets, and in the quick protocol that a page speaks.

    In the old one the server would spend minutes on the first of them, and no other visitor would be answered.
    """

    async def pre_get(self) -> None:
        spoken = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
        if PROTOCOL not in [each.strip() for each in spoken]:
            raise HTTPError(400, reason=f"Only {PROTOCOL} is spoken here")
        await super().pre_get()


class Visitors(AsyncMappingKernelManager):
    """The kernels, one per visitor, each with a folder of its own."""

    memory = Float(0.75 * psutil.virtual_memory().total, help="bytes of memory of all visitors", config=True)
    disk = Float(5e9, help="bytes on disk of all visitors", config=True)
    most = Int(max(1, int(0.75 * psutil.virtual_memory().total / ONE)), help="visitors at a time", config=True)

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._folders: dict[str, Path] = {}
        self._looks = PeriodicCallback(self._keep_room, SECONDS_BETWEEN_LOOKS * 1e3)
        self._looks.start()

    async def start_kernel(self, *, env: dict[str, str], **options: Any) -> str:
        """Starts a visitor's kernel; raises HTTPError if there are ``most`` of them."""
        if len(self._folders) >= self.most:
            raise HTTPError(503, reason=f"All places are taken ({self.most}): try again in a minute")
        kernel_id = self.new_kernel_id()
        folder = self._folders[kernel_id] = Path(tempfile.mkdtemp(dir=self.connection_dir))
        # The prepared texts are everybody's; what a visitor's own texts add lies in their folder.
        shutil.copytree(cache_dir(), folder / "cache", copy_function=os.symlink, ignore=lambda *_: ["compiled"])
        own = {"SPARSITY_LAB_HOME": str(folder / "home"), "SPARSITY_LAB_CACHE": str(folder / "cache")}
        env = env | own | {"SPARSITY_LAB_VISITOR": "1", "SPARSITY_LAB_COMPILE": "0"}
        try:
            return str(await super().start_kernel(kernel_id=kernel_id, env=env, **options))
        except BaseException:
            self._forget(kernel_id)
            raise

    def remove_kernel(self, kernel_id: str) -> Any:
        """Forgets a kernel that has ended, and whatever its visitor has left."""
        self._forget(kernel_id)
        return super().remove_kernel(kernel_id)

    def _forget(self, kernel_id: str) -> None:
        if kernel_id in self._folders:
            shutil.rmtree(self._folders.pop(kernel_id), ignore_errors=True)

    async def _keep_room(self) -> None:
        """Sends the visitor away who takes most, if all together take more than there is for them."""
        uses: list[tuple[str, Callable[[str], float], float]] = [
            ("memory", self._memory_of, self.memory), ("disk", self._disk_of, self.disk)
        ]  # fmt: skip
        for what, use, limit in uses:
            kernel_ids = self.list_kernel_ids()
            amounts = await asyncio.to_thread(list, map(use, kernel_ids))  # it takes 0.1 s per kernel
            used = dict(zip(kernel_ids, amounts, strict=True))
            if sum(used.values()) > limit:
                greediest = max(kernel_ids, key=lambda kernel_id: used[kernel_id])
                self.log.warning("Visitors take too much %s: ended %s, which took most", what, greediest)
                with suppress(KeyError, HTTPError):  # it has just ended
                    await self.shutdown_kernel(greediest, now=True)

    def _memory_of(self, kernel_id: str) -> float:
        """Returns the bytes that would be free without this kernel and its workers, which share most of theirs."""
        total = 0.0
        with suppress(psutil.Error, AttributeError, KeyError, HTTPError):  # one of them has just ended
            kernel = psutil.Process(self.get_kernel(kernel_id).provisioner.pid)
            for process in (kernel, *kernel.children(recursive=True)):
                total += process.memory_full_info().uss
        return total

    def _disk_of(self, kernel_id: str) -> float:
        total = 0.0
        for folder, _, names in os.walk(self._folders.get(kernel_id, "")):
            for name in names:
                with suppress(OSError):  # it has just gone
                    total += os.lstat(os.path.join(folder, name)).st_size
        return total


SERVED = {  # what of Voilà's the page needs, and what stands in for it
    FileFindHandler: FileFindHandler,
    KernelHandler: Kernel,
    MultiStaticFileHandler: MultiStaticFileHandler,
    TemplateStaticFileHandler: TemplateStaticFileHandler,
    VoilaKernelWebsocketHandler: Channels,
    VoilaShutdownKernelHandler: VoilaShutdownKernelHandler,
}


class App(Voila):
    """Voilà with one page."""

    def initialize(self, argv: list[str] | None = None) -> None:
        super().initialize(argv)
        self.identity_provider_class = VoilaIdentityProvider
        self.auto_token = True
        self.notebook_path = str(HERE / "dashboard.ipynb")
        self.voila_configuration.multi_kernel_manager_class = Visitors
        self.voila_configuration.config.VoilaConfiguration.resources = words()

    def init_handlers(self) -> list[Any]:
        """Returns what the page needs; any other address is not found."""
        page = {"notebook_path": "dashboard.ipynb", "template_paths": self.template_paths, "config": self.config}
        served = [(path, SERVED[its], *more) for path, its, *more in super().init_handlers() if its in SERVED]
        return [*served, ("/", Page, page | {"voila_configuration": self.voila_configuration})]

    def stop(self) -> None:
        """Ends the kernels before their folders go."""
        run_sync(self.kernel_manager.shutdown_all)(now=True)
        super().stop()

    def launch_browser(self) -> None:
        """Opens the page, with its token."""
        Thread(target=partial(webbrowser.open, self.display_url)).start()


def words() -> dict[str, Any]:
    """Returns what the page explains: the glossary, and the script of a tour."""
    glossary = tomllib.loads((SUITE / "docs/glossary.toml").read_text(encoding="utf-8"))
    means = {term: entry["means"] for term, entry in glossary.items()}
    also = {other: text for text in means.values() for other in re.findall(r", also called ([\w -]+),", text)}
    tour = resources.files("sparsity_lab.pages") / "site/tour.js"
    return {"glossary": means | also, "tour": tour.read_text(encoding="utf-8")}


if __name__ == "__main__":
    os.chdir(HERE)  # where voila.json is
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("JUPYTER_PATH")]))
    for name in CORPORA:
        load_corpus(name)
    App.config_file_paths.default_args = ([str(HERE)],)
    sys.exit(App.launch_instance())
