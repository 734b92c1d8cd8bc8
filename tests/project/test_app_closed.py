"""`make app` attacked by somebody who has its token: what docs/app.md says of visitors holds."""

import asyncio
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1, serialize_msg_to_ws_v1
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.browser.lab import APP, app_served

PROTOCOL = "v1.kernel.websocket.jupyter.org"
VERSION = {"version": "1.0.0"}  # of the protocol in which a page asks for its widgets
SECONDS = 30.0  # for a kernel to start and to make the dashboard


class Visitor:
    """Somebody with the token, and no page: only requests, and a kernel once there was a `visit`."""

    def __init__(self, address: str, token: str = "secret") -> None:
        self.base = address.split("?")[0]
        self.headers = {"Authorization": f"token {token}"} if token else {}
        self.kernel = ""

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Returns the status and the text of an answer; redirects are followed."""
        request = urllib.request.Request(self.base + path, body, self.headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def visit(self, query: str = "") -> str:
        """Opens the page, and returns its text."""
        status, page = self.ask("GET", query)
        assert status == 200, page
        found = re.search(r'"kernelId":\s*"([^"]+)"', page)
        assert found is not None
        self.kernel = found[1]
        return page

    def channels(self, kernel: str = "", protocol: str = PROTOCOL) -> ClientConnection:
        url = f"{self.base.replace('http', 'ws')}api/kernels/{kernel or self.kernel}/channels?session_id=s"
        return connect(url, additional_headers=self.headers, subprotocols=[Subprotocol(protocol)], max_size=None)


def message(kind: str, content: dict[str, Any], channel: str = "shell") -> bytes:
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "s", "username": "", "version": "5.3"}
    parts = {"header": header, "parent_header": {}, "metadata": VERSION, "content": content}
    return bytes(serialize_msg_to_ws_v1(parts, channel, pack=lambda part: json.dumps(part).encode()))


def answers(line: ClientConnection, *messages: bytes) -> list[tuple[str, Any]]:
    """Sends messages and one that is always answered; returns what is said about them until all are dealt with, as
    kinds and contents, without statuses."""
    sent = []
    for each in (*messages, message("comm_info_request", {})):
        line.send(each)
        sent.append(json.loads(deserialize_msg_from_ws_v1(each)[1][0])["msg_id"])
    found, left = [], {"comm_info_reply", "idle"}
    while left:
        kind, content, about = hear(line)
        if about in sent and kind != "status":
            found.append((kind, content))
        if about == sent[-1]:
            left -= {kind, content.get("execution_state")}
    return found


def hear(line: ClientConnection) -> tuple[str, Any, str]:
    """Waits for a message; returns its kind, its content without buffers, and the id of the message it is about."""
    header, parent, _, content = map(json.loads, deserialize_msg_from_ws_v1(line.recv(timeout=SECONDS))[1][:4])
    return header["msg_type"], content, parent.get("msg_id", "")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("app")
    with app_served(folder / "server", folder / "cache") as url:
        yield url


@pytest.fixture(scope="module")
def visitor(address: str) -> Visitor:
    visitor = Visitor(address)
    visitor.visit()
    return visitor


NOT_THERE = """
lab tree api api/status api/me api/contents api/contents/voila.json api/contents/..%2f..%2fREADME.md
api/terminals api/kernels api/kernelspecs api/sessions api/config/notebook api/spec.yaml api/events/subscribe
api/nbconvert metrics lsp/status files/voila.json files/..%2f..%2fREADME.md view/voila.json
static/style/bootstrap.min.css nbconvert/html/dashboard.ipynb nbextensions/x custom/custom.css
kernelspecs/python3/logo-64x64.png formgrader login logout voila/files/voila.json voila/files/x.png
voila/files/%2e%2e/%2e%2e/docs/dashboard.png voila/render voila/tree voila/render/dashboard.ipynb
voila/render/..%2f00_start_here.ipynb voila/api/contents dashboard.ipynb serve.py voila.json
voila/static/..%2fapp.py voila/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd
voila/labextensions/..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd
voila/templates/sparsity_lab/static/..%2fconf.json voila/templates/..%2f..%2fapp/static/serve.py
"""


@pytest.mark.parametrize("path", NOT_THERE.split())
def test_only_the_page_is_served(address: str, path: str) -> None:
    status, text = Visitor(address).ask("GET", path)
    assert status in (403, 404, 500), text[:200]
    assert "root:" not in text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "api/kernels"), ("POST", "api/terminals"), ("POST", "api/sessions"), ("POST", "api/shutdown"),
        ("POST", "api/contents"), ("PUT", "api/contents/evil.txt"), ("DELETE", "api/contents/dashboard.ipynb"),
        ("POST", "login"), ("PUT", "files/evil.txt"), ("POST", "voila/render/dashboard.ipynb"), ("POST", ""),
        ("DELETE", "api/kernels/MINE"), ("POST", "api/kernels/MINE/interrupt"), ("POST", "api/kernels/MINE/restart"),
        ("GET", "api/kernels/OTHERS"), ("POST", "voila/api/shutdown/OTHERS"), ("GET", "voila/execution/MINE"),
    ],
)  # fmt: skip
def test_nothing_is_done_for_a_request(visitor: Visitor, method: str, path: str) -> None:
    own = path.replace("MINE", visitor.kernel).replace("OTHERS", str(uuid.uuid4()))
    body = b'{"name": "python3", "type": "file", "password": "secret", "new_password": "mine"}'
    status, _ = visitor.ask(method, own, body if method != "GET" else None)
    assert status in (403, 404, 405, 500)
    assert visitor.ask("GET", f"api/kernels/{visitor.kernel}")[0] == 200, "the kernel is still there"


def test_without_the_token_nothing_is_done(address: str, visitor: Visitor) -> None:
    stranger = Visitor(address, token="")
    assert stranger.ask("GET", "")[0] == 403
    assert stranger.ask("GET", f"api/kernels/{visitor.kernel}")[0] == 403
    with pytest.raises(InvalidStatus):
        stranger.channels(visitor.kernel)
    with pytest.raises(InvalidStatus):
        Visitor(address).channels(str(uuid.uuid4()))


def test_a_page_speaks_no_older_protocol(visitor: Visitor) -> None:
    """In which the server would spend minutes on one answer, and have no time for others."""
    with pytest.raises(InvalidStatus):
        visitor.channels(protocol="v0.kernel.websocket.jupyter.org")


def test_a_page_chooses_neither_template_nor_notebook(visitor: Visitor) -> None:
    other = Visitor(visitor.base)
    page = other.visit("?template=classic&theme=%3Cscript%3E&notebook_path=serve.py&token=secret")
    assert "%3Cscript%3E" not in page.replace("&", "")
    assert '"kernelId"' in page
    assert "<title>Sparsity Lab</title>" in page


CODE = {"code": "print(6 * 7)", "silent": False, "store_history": False, "user_expressions": {}, "allow_stdin": False}


@pytest.mark.parametrize("channel", ["shell", "control", "stdin"])
@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("execute_request", CODE),
        ("complete_request", {"code": "im", "cursor_pos": 2}),
        ("inspect_request", {"code": "print", "cursor_pos": 3, "detail_level": 1}),
        ("history_request", {"hist_access_type": "tail", "n": 9, "output": True, "raw": True}),
        ("debug_request", {"type": "request", "seq": 1, "command": "evaluate", "arguments": {"expression": "6 * 7"}}),
        ("interrupt_request", {}),
        ("create_subshell_request", {}),
        ("input_reply", {"value": "42"}),
    ],
)
def test_a_kernel_runs_nothing_for_its_visitor(
    visitor: Visitor, kind: str, content: dict[str, Any], channel: str
) -> None:
    with visitor.channels() as line:
        heard = answers(line, message(kind, content, channel))
    assert [kind for kind, _ in heard] == ["comm_info_reply"]


@pytest.mark.parametrize("target", ["jupyter.widget", "os.system", "builtins.exec", ""])
def test_a_page_makes_no_widgets(visitor: Visitor, target: str) -> None:
    model = {"_model_module": "@jupyter-widgets/controls", "_model_name": "ImageModel"}
    opening = message("comm_open", {"comm_id": "mine", "target_name": target, "data": {"state": model}})
    with visitor.channels() as line:
        heard = answers(line, opening)
    assert "comm_close" in dict(heard)
    assert "mine" not in dict(heard)["comm_info_reply"]["comms"]


def test_a_page_moves_its_dials_and_reads_no_file(visitor: Visitor) -> None:
    """Through the comms that a page has: a text by its path is refused, and a budget that a slider has is not."""
    with visitor.channels() as line:
        opening = {"comm_id": uuid.uuid4().hex, "target_name": "jupyter.widget.control", "data": {}}
        line.send(message("comm_open", opening, "shell"))
        line.send(message("comm_msg", {"comm_id": opening["comm_id"], "data": {"method": "request_states"}}))
        while (content := hear(line)[1]).get("data", {}).get("method") != "update_states":
            pass
        states = {name: each["state"] for name, each in content["data"]["states"].items()}
        (share,) = [name for name, state in states.items() if state.get("description") == "link"]

        def pasted(link: str) -> tuple[str, str]:
            """Returns what the page hears of it, and the link that it shows then."""
            data = {"method": "update", "state": {"value": link}, "buffer_paths": []}
            heard = answers(line, message("comm_msg", {"comm_id": share, "data": data}))
            *_, shown = [c["data"]["state"]["value"] for _, c in heard if c.get("comm_id") == share]
            return str(heard), shown

        for link in ("text=/etc/passwd", "text=~", "b=1e15", "d=500"):
            heard, shown = pasted(link)
            assert f"The link&#x27;s {link} is not" in heard
            assert link not in shown
        heard, shown = pasted("b=2e10")
        assert "The link&#x27;s" not in heard
        assert "b=2e10&" in shown
        assert "&text=python&" in shown


def test_what_is_sent_is_bounded(visitor: Visitor) -> None:
    with visitor.channels() as line, pytest.raises(ConnectionClosed):
        answers(line, message("comm_msg", {"comm_id": "x", "data": "x" * 11_000_000}))


def test_places_and_disk_are_bounded_and_ctrl_c_ends_it_all(tmp_path: Path) -> None:
    options = ("--Visitors.most=1", "--Visitors.disk=2e5")
    with app_served(tmp_path / "server", tmp_path / "cache", *options) as url:
        first, second = Visitor(url), Visitor(url)
        first.visit()
        (folder,) = (tmp_path / "server").glob("voila_*/tmp*")
        status, text = second.ask("GET", "")
        assert status == 503
        assert "All places are taken (1)" in text

        (folder / "home").mkdir(exist_ok=True)
        (folder / "home/large.txt").write_bytes(b"x" * 300_000)  # as an upload would
        deadline = time.monotonic() + SECONDS
        while folder.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not folder.exists(), "who takes too much is sent away, with all of it"
        assert first.ask("GET", f"api/kernels/{first.kernel}")[0] == 404
        assert "<title>Sparsity Lab</title>" in second.visit()

        port = url.split(":")[2].split("/")[0]
        (server,) = [each for each in psutil.Process().children() if f"--port={port}" in each.cmdline()]
        kernels = server.children(recursive=True)
        assert kernels
        server.send_signal(signal.SIGINT)  # Ctrl-C
        assert server.wait(SECONDS) == 0
        assert psutil.wait_procs(kernels, SECONDS)[1] == []
        assert not list((tmp_path / "server").glob("voila_*"))


@pytest.mark.parametrize("what", ["memory", "disk"])
def test_whoever_takes_most_is_sent_away_if_all_take_too_much(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    new: Any = runpy.run_path(str(APP))["Visitors"]
    used, ended = {"modest": 30.0, "greedy": 60.0}, []

    async def look() -> None:
        visitors = new(memory=100.0, disk=100.0)
        monkeypatch.setattr(visitors, "list_kernel_ids", lambda: list(used))
        for use in ("memory", "disk"):
            monkeypatch.setattr(visitors, f"_{use}_of", used.__getitem__ if use == what else lambda kernel_id: 1.0)

        async def end(kernel_id: str, now: bool) -> None:
            ended.append(kernel_id)

        monkeypatch.setattr(visitors, "shutdown_kernel", end)
        await visitors._keep_room()
        assert ended == []
        used["greedy"] = 80.0
        await visitors._keep_room()

    asyncio.run(look())
    assert ended == ["greedy"]


def test_memory_is_that_of_a_kernel_with_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    new: Any = runpy.run_path(str(APP))["Visitors"]

    async def look() -> tuple[float, float]:
        visitors = new()
        here = SimpleNamespace(provisioner=SimpleNamespace(pid=os.getpid()))
        monkeypatch.setattr(visitors, "get_kernel", lambda kernel_id: here)
        before = visitors._memory_of("mine")
        with subprocess.Popen([sys.executable, "-c", "x = b'x' * 10**8; input()"], stdin=subprocess.PIPE) as worker:
            deadline = time.monotonic() + SECONDS
            while (after := visitors._memory_of("mine")) < before + 1e8 and time.monotonic() < deadline:
                time.sleep(0.1)
            worker.kill()
        return before, after

    before, after = asyncio.run(look())
    assert before > 2e7
    assert after > before + 1e8
