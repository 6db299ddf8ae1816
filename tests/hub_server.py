"""A small Hugging Face Hub on loopback, so that the real clients upload to it and load from it without internet.

It serves what huggingface_hub, transformers and datasets ask for: repositories with branches, commits, LFS uploads,
listings, downloads. Anything else (Xet, pull requests, search, dataset viewer) is refused with 501. It can also fail as
the Hub and networks do: see `HubServer.fail`.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import parse_qs, unquote, urlsplit

from warm_python import interpreter_for, start_python


# What goes to LFS, as on the Hub. Parquet must: `datasets` deletes each shard after "preupload", before the commit.
LFS_SUFFIXES = (".arrow", ".bin", ".h5", ".npy", ".npz", ".parquet", ".pt", ".safetensors", ".zip")
LFS_SIZE = 10_000_000  # bytes; larger files go to LFS whatever their name

# The caller's caches, offline switches and proxies, which a client must not inherit.
OWN_SETTINGS = re.compile("(HF|HUGGINGFACE|TRANSFORMERS|XDG_CACHE)_.*|.*_PROXY", re.IGNORECASE)

REPO_ID = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO_ID}"
WEB = rf"/(?:(?P<kind>datasets|spaces)/)?{REPO_ID}"
REVISION = r"(?P<revision>[^/]+)"


class HubServer:
    """The Hub as a context manager: `with HubServer() as hub: print(hub.run_client("..."))`.

    Args:
        libraries_once: Whether transformers and trl are imported once for all clients, where several of them need these.

    Attributes:
        url: Address for HF_ENDPOINT.
        token: The one access token, of the account `user`, which may write everywhere.
        root: Temporary folder: contents by SHA-256 in `blobs`, the client's HF_HOME in `home`.
        requests: A line per answer, as "GET /api/models/user/repo 200", to see what a client asked for.
    """

    token = "hf_test"

    def __init__(self, libraries_once: bool = False) -> None:
        self._libraries_once, self._interpreter = libraries_once, None

    def __enter__(self) -> "HubServer":
        self._folder = tempfile.TemporaryDirectory(prefix="hub-")
        self.root = Path(self._folder.name)
        (self.root / "blobs").mkdir()
        self.requests: list[str] = []
        self.repos: dict[tuple[str, str], Repo] = {}
        self.failures: list[list] = []
        self.lock = Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        if self._interpreter is not None:
            self._interpreter.end()
        self._folder.cleanup()

    def environment(self) -> dict[str, str]:
        """Variables for a client on a machine that has never seen the Hub.

        Xet is switched off, so large files go through LFS. The server is also the client's proxy and refuses every
        other host: nothing leaves the machine, and nothing waits for a name lookup.
        """
        return {name: value for name, value in os.environ.items() if not OWN_SETTINGS.fullmatch(name)} | {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": self.token,
            "HF_HOME": str(self.root / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "http_proxy": self.url,
            "https_proxy": self.url,
            "no_proxy": "127.0.0.1",
        }

    def run_client(self, code: str) -> str:
        """Run Python code in a fresh process with `environment()` and an empty HF_HOME, its folder, and return what it printed.

        A process of its own because huggingface_hub reads HF_ENDPOINT when it is imported.

        Raises:
            RuntimeError: The process failed; the message ends with its stderr.
        """
        shutil.rmtree(self.root / "home", ignore_errors=True)
        (self.root / "home").mkdir()
        start, environment = start_python, self.environment()
        if self._libraries_once:
            self._interpreter = self._interpreter or interpreter_for(environment | {"OMP_NUM_THREADS": "1"})
            start = self._interpreter.start
        client = start(["-c", textwrap.dedent(code)], environment, self.root / "home")
        if client.wait() != 0:
            raise RuntimeError(f"client process ended with exit code {client.wait()}:\n{client.error.read_text()}")
        return client.output.read_text()

    def fail(self, request: str, how: int | str, times: int) -> None:
        """
        Let the next `times` requests that match the regular expression `request` ("POST .*/commit/.*") fail.

        Args:
            how: HTTP status, or "cut": the connection ends in the middle of the answer, before anything was done, or
                "cut after": the request was carried out and its answer is lost.
        """
        with self.lock:
            self.failures.append([re.compile(request), how, times])

    def next_failure(self, request: str) -> int | str | None:
        """How this request is to fail; None if it is not to."""
        with self.lock:
            for failure in self.failures:
                if failure[2] and failure[0].fullmatch(request):
                    failure[2] -= 1
                    return failure[1]
        return None

    def blob(self, sha256: str) -> Path:
        """Where the content with this SHA-256 is kept."""
        return self.root / "blobs" / sha256

    def store(self, content: bytes) -> str:
        """Keep a content and return its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        with tempfile.NamedTemporaryFile(dir=self.root, delete=False) as file:
            file.write(content)
        os.replace(file.name, self.blob(sha256))
        return sha256


@dataclass(frozen=True)
class File:
    """A file in a commit: `oid` is git's id (of the pointer, if in LFS), `written` the number of its commit."""

    sha256: str
    oid: str
    size: int
    lfs_pointer_size: int | None
    written: int


@dataclass(frozen=True)
class Commit:
    """A state of the repository."""

    id: str
    title: str
    date: str
    files: dict[str, File]


class Repo:
    """The commits of a repository, oldest first, and the one that each branch points at."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.commits: list[Commit] = []
        self.branches: dict[str, Commit] = {}

    def add_commit(self, title: str, files: dict[str, File], branch: str = "main") -> Commit:
        """Like git's, the id depends on content, title and parent."""
        parent = self.branches[branch].id if branch in self.branches else None
        commit_id = _sha1(parent, title, [(path, file.oid) for path, file in sorted(files.items())])
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.branches[branch] = Commit(commit_id, title, date, files)
        self.commits.append(self.branches[branch])
        return self.branches[branch]

    def describe(self, commit: Commit, path: str, expand: bool) -> dict | None:
        """A file or folder as listings give it, with its last commit if `expand`; None where there is no such path."""
        if file := commit.files.get(path):
            inside = [file]
            entry = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
            if file.lfs_pointer_size:
                entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": file.lfs_pointer_size}
        else:
            inside = [file for name, file in commit.files.items() if name.startswith(path + "/")]
            entry = {"type": "directory", "path": path, "oid": _sha1([file.oid for file in inside]), "size": 0}
        if expand and inside:
            last = self.commits[max(file.written for file in inside)]
            entry["lastCommit"] = {"id": last.id, "title": last.title, "date": last.date}
        return entry if inside else None


class HubError(Exception):
    """A refusal as the Hub words it; `code` is its X-Error-Code, empty where the Hub sends none."""

    def __init__(self, status: int, code: str, message: str, commit_id: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, "X-Repo-Commit": commit_id}


ROUTES: list[tuple[str, re.Pattern, bool, Callable]] = []


def route(method: str, pattern: str, needs_token: bool = False) -> Callable[[Callable], Callable]:
    """Serve `method pattern` with the decorated method; the pattern's named groups are its arguments."""

    def register(endpoint: Callable) -> Callable:
        ROUTES.append((method, re.compile(pattern), needs_token, endpoint))
        return endpoint

    return register


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection. Endpoints return a JSON value, or (status, JSON value or bytes, headers)."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: HubServer

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        failure = self.hub.next_failure(f"{self.command} {self.path}")
        if failure in ("cut", "cut after"):
            self._cut(failure)
            return
        try:
            if failure is not None:
                raise HubError(failure, "", "the test Hub was told to fail")
            reply = self._call_endpoint()
            status, content, headers = reply if isinstance(reply, tuple) else (200, reply, {})
        except HubError as error:
            status, content, headers = error.status, {"error": str(error)}, error.headers
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _cut(self, failure: str) -> None:
        """Ends the connection in the middle of an answer, or of the request's being carried out."""
        if failure == "cut after":
            self._call_endpoint()
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"{")
        self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = answer

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.hub.requests.append(f"{self.command} {self.path} {int(code)}")

    def _call_endpoint(self) -> object:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        authorization = self.headers.get("Authorization")
        if authorization not in (None, f"Bearer {self.hub.token}"):
            raise HubError(401, "", "Invalid credentials in Authorization header")
        self.has_token = authorization is not None
        for method, pattern, needs_token, endpoint in ROUTES:
            found = pattern.fullmatch(url.path)
            if not found or method != self.command or url.netloc:  # netloc: a request to a proxy, for another host
                continue
            if needs_token and not self.has_token:
                # Clients infer "RepoNotFound" from the https address of a repository; over http they must be told.
                code = "RepoNotFound" if "repo_id" in found.groupdict() else ""
                raise HubError(401, code, "Invalid username or password.")
            return endpoint(self, **{name: value and unquote(value) for name, value in found.groupdict().items()})
        raise HubError(501, "", f"the test Hub does not serve {self.command} {self.path}")

    def _find(self, kind: str | None, repo_id: str, revision: str = "main") -> tuple[Repo, Commit]:
        repo = self.hub.repos.get((kind or "models", repo_id))
        if repo is None or (repo.private and not self.has_token):
            raise HubError(404, "RepoNotFound", "Repository not found")
        if revision in repo.branches:
            return repo, repo.branches[revision]
        for commit in repo.commits:
            if revision == commit.id:
                return repo, commit
        raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision!a}")

    def _web_url(self, kind: str, repo_id: str) -> str:
        return f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{repo_id}"

    @route("GET", "/api/whoami-v2", needs_token=True)
    def whoami(self) -> dict:
        """Whose token it is."""
        return {"type": "user", "name": "user", "orgs": []}

    @route("POST", "/api/repos/create", needs_token=True)
    def create_repo(self) -> tuple:
        """Create a repository; like the Hub's it starts with one commit that holds `.gitattributes`."""
        request = json.loads(self.body)
        kind, repo_id = f"{request.get('type', 'model')}s", f"{request['organization'] or 'user'}/{request['name']}"
        with self.hub.lock:
            exists = (kind, repo_id) in self.hub.repos
            if not exists:
                repo = self.hub.repos[kind, repo_id] = Repo(private=request.get("visibility") == "private")
                attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
                repo.add_commit("initial commit", {".gitattributes": self._regular_file(attributes.encode(), 0)})
        return 409 if exists else 200, {"name": repo_id, "url": self._web_url(kind, repo_id)}, {}

    @route("POST", rf"{API}/branch/{REVISION}", needs_token=True)
    def create_branch(self, kind: str, repo_id: str, revision: str) -> tuple:
        """A branch where main is."""
        with self.hub.lock:
            repo, commit = self._find(kind, repo_id)
            exists = revision in repo.branches
            repo.branches.setdefault(revision, commit)
        return 409 if exists else 200, {}, {}

    @route("POST", "/api/validate-yaml")
    def validate_card(self) -> dict:
        """Check a card's YAML before an upload: accepted unread."""
        return {"errors": [], "warnings": []}

    @route("GET", rf"{API}(?:/revision/{REVISION})?")
    def repo_info(self, kind: str, repo_id: str, revision: str | None) -> dict:
        """`model_info`, `dataset_info`, `repo_exists`, and the commit behind a revision."""
        repo, commit = self._find(kind, repo_id, revision or "main")
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        info = {"id": repo_id, "sha": commit.id, "private": repo.private, "siblings": siblings, "tags": []}
        return info | {"createdAt": repo.commits[0].date, "lastModified": commit.date}

    @route("GET", rf"{API}/tree/{REVISION}(?:/(?P<path>.+))?")
    def list_tree(self, kind: str, repo_id: str, revision: str, path: str | None) -> list[dict]:
        """Files and folders below a folder, on one page however many they are."""
        repo, commit = self._find(kind, repo_id, revision)
        prefix = f"{path}/" if path else ""
        below = [name[len(prefix) :].split("/") for name in commit.files if name.startswith(prefix)]
        if path and not below:
            raise HubError(404, "EntryNotFound", "Entry not found", commit.id)
        recursive, expand = (self.query.get(name) == ["true"] for name in ("recursive", "expand"))
        names = {prefix + "/".join(parts[:n]) for parts in below for n in range(1, len(parts) + 1 if recursive else 2)}
        return [repo.describe(commit, name, expand) for name in sorted(names)]

    @route("POST", rf"{API}/paths-info/{REVISION}")
    def paths_info(self, kind: str, repo_id: str, revision: str) -> list[dict]:
        """Entries of the named paths, without those that do not exist."""
        repo, commit = self._find(kind, repo_id, revision)
        form = parse_qs(self.body.decode())
        entries = (repo.describe(commit, path, form.get("expand") == ["true"]) for path in form["paths"])
        return [entry for entry in entries if entry]

    @route("POST", rf"{API}/preupload/{REVISION}", needs_token=True)
    def preupload(self, kind: str, repo_id: str, revision: str) -> dict:
        """How to send each file, and the id of what is at its path so that unchanged files are left out."""
        _, commit = self._find(kind, repo_id, revision)
        answers = []
        for path, size in ((file["path"], file["size"]) for file in json.loads(self.body)["files"]):
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or size > LFS_SIZE else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
            if file := commit.files.get(path):
                answers[-1]["oid"] = file.sha256 if file.lfs_pointer_size else file.oid
        return {"files": answers}

    @route("POST", rf"{WEB}\.git/info/lfs/objects/batch", needs_token=True)
    def lfs_batch(self, kind: str | None, repo_id: str) -> dict:
        """Where to send LFS objects (Git LFS batch API, "basic" transfer); nowhere for those that are here already."""
        self._find(kind, repo_id)
        objects = json.loads(self.body)["objects"]
        for wanted in objects:
            if not self.hub.blob(wanted["oid"]).exists():
                wanted["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid: str) -> dict:
        """Content of an LFS object. Sent without a token: on the Hub the address itself is signed."""
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "", f"the content's SHA-256 is not {oid}")
        self.hub.store(self.body)
        return {}

    @route("POST", rf"{API}/commit/{REVISION}", needs_token=True)
    def commit(self, kind: str, repo_id: str, revision: str) -> dict:
        """One commit on a branch, as lines of JSON: a header, then files (base64), LFS files and deletions."""
        header, *operations = (json.loads(line) for line in self.body.splitlines())
        if "create_pr" in self.query:
            raise HubError(501, "", "the test Hub has no pull requests")
        with self.hub.lock:
            repo, parent = self._find(kind, repo_id, revision)
            if header["value"].get("parentCommit", parent.id) != parent.id:
                raise HubError(412, "", "A commit has happened since. Please refresh and try again.")
            files = dict(parent.files)
            for operation in operations:
                self._apply(operation["key"], operation["value"], files, number=len(repo.commits))
            commit = repo.add_commit(header["value"]["summary"], files, revision)
        return {"commitOid": commit.id, "commitUrl": f"{self._web_url(kind, repo_id)}/commit/{commit.id}"}

    def _apply(self, key: str, value: dict, files: dict[str, File], number: int) -> None:
        """Carry out one operation of commit `number` on `files`."""
        path = value["path"]
        if key == "file":
            files[path] = self._regular_file(base64.b64decode(value["content"]), number)
        elif key == "lfsFile":
            files[path] = self._lfs_file(value["oid"], number)
        else:
            deleted = [name for name in files if name == path or name.startswith(path.rstrip("/") + "/")]
            if not deleted:
                raise HubError(404, "EntryNotFound", "A file with this name doesn't exist")
            for name in deleted:
                del files[name]

    def _regular_file(self, content: bytes, number: int) -> File:
        return File(self.hub.store(content), _git_oid(content), len(content), None, number)

    def _lfs_file(self, sha256: str, number: int) -> File:
        blob = self.hub.blob(sha256)
        if not blob.exists():
            raise HubError(400, "", f"LFS object {sha256} was not uploaded")
        size = blob.stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()
        return File(sha256, _git_oid(pointer), size, len(pointer), number)

    @route("HEAD", rf"{WEB}/resolve/{REVISION}/(?P<path>.+)")
    @route("GET", rf"{WEB}/resolve/{REVISION}/(?P<path>.+)")
    def resolve(self, kind: str | None, repo_id: str, revision: str, path: str) -> tuple:
        """A file's content, all of it or the asked Range; the headers give commit, etag and size."""
        _, commit = self._find(kind, repo_id, revision)
        file = commit.files.get(path)
        if file is None:
            raise HubError(404, "EntryNotFound", "Entry not found", commit.id)
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{file.oid}"', "Accept-Ranges": "bytes"}
        if file.lfs_pointer_size:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        content = self.hub.blob(file.sha256).read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            return 200, content, headers
        start, stop = int(asked[1]), min(int(asked[2] or file.size) + 1, file.size)
        if start >= file.size:
            return 416, b"", {"Content-Range": f"bytes */{file.size}"}
        return 206, content[start:stop], headers | {"Content-Range": f"bytes {start}-{stop - 1}/{file.size}"}


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _sha1(*values: object) -> str:
    return hashlib.sha1(repr(values).encode()).hexdigest()
