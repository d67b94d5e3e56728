"""A stand-in for the Hugging Face Hub, on this machine only: the routes that its library uses for models.

Large files travel as they do there: safetensors and videos by LFS, all else inside the commit.
"""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN, USER = "hf_sesame", "ann"
LARGE = (".safetensors", ".mp4")


class Repo:
    """Every commit is a dictionary of all files, by its id; the last one is the branch main."""

    def __init__(self, private):
        self.private, self.commits, self.messages = private, {}, []
        self.add({".gitattributes": b""}, "initial commit")

    def add(self, files, message):
        sha = hashlib.sha1(repr((len(self.commits), sorted(files))).encode()).hexdigest()
        self.commits[sha] = files
        self.messages.append(message)
        return sha

    @property
    def head(self):
        return [*self.commits][-1]

    def at(self, revision):
        sha = self.head if revision == "main" else revision
        return (sha, self.commits[sha]) if sha in self.commits else (None, {})


class Hub(ThreadingHTTPServer):
    """`repos` by their names; `refuse`, if it is set, is what a commit is answered with."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.large, self.refuse = {}, {}, None
        self.asked = []  # (method, path)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *words):
        pass

    def do_GET(self):
        self.handle_one("GET")

    def do_HEAD(self):
        self.handle_one("HEAD")

    def do_POST(self):
        self.handle_one("POST")

    def do_PUT(self):
        self.handle_one("PUT")

    def handle_one(self, method):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((method, path))
        for verbs, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if method in verbs and match:
                return answer(self, *match.groups())
        return self.error(404, f"no such route: {method} {path}")

    def answer(self, value, code=200, **headers):
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(code)
        for name, text in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def error(self, code, text, kind=""):
        self.answer({"error": text}, code, X_Error_Code=kind, X_Error_Message=text)

    def known(self):
        """Tell whether the token is right, and answer if it is not."""
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.error(401, "Invalid credentials in Authorization header")
        return False

    def repo(self, name):
        """The repository, or None and an answer: a private one is not there for others."""
        found = self.server.repos.get(name)
        if found is None or (found.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"):
            self.error(404, "Repository not found", "RepoNotFound")
            return None
        return found

    def whoami(self):
        if self.known():
            self.answer({"name": USER, "type": "user", "auth": {}})

    def create(self):
        wanted = json.loads(self.body)
        name = f"{wanted['organization'] or USER}/{wanted['name']}"
        if not self.known():
            return
        if wanted["organization"] != USER:
            self.error(403, f"You don't have the rights to create a model under {wanted['organization']}")
        elif name in self.server.repos:
            self.answer({"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409)
        else:
            private = wanted.get("visibility") == "private" or wanted.get("private") is True
            self.server.repos[name] = Repo(private)
            self.answer({"url": f"{self.server.url}/{name}"})

    def validate(self):
        text = json.loads(self.body)["content"]
        sound = text.startswith("---\n") and "\n---\n" in text
        self.answer({"errors": [] if sound else [{"message": "no metadata"}], "warnings": []}, 200 if sound else 400)

    def info(self, name, revision=None):
        if (repo := self.repo(name)) is None:
            return
        sha, files = repo.at(revision or "main")
        if sha is None:
            self.error(404, "Invalid rev id", "RevisionNotFound")
            return
        siblings = [{"rfilename": path} for path in sorted(files)]
        self.answer({"id": name, "sha": sha, "private": repo.private, "siblings": siblings, "tags": [], "downloads": 0})

    def tree(self, name, revision):
        if (repo := self.repo(name)) is not None:
            files = repo.at(revision)[1]
            self.answer([{"type": "file", "path": p, "size": len(d), "oid": _oid(d)} for p, d in files.items()])

    def preupload(self, name, revision):
        if self.known() and self.repo(name) is not None:
            names = [file["path"] for file in json.loads(self.body)["files"]]
            modes = {path: "lfs" if path.endswith(LARGE) else "regular" for path in names}
            self.answer({"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]})

    def batch(self, name):
        if self.known():
            objects = [
                {**thing, "actions": {"upload": {"href": f"{self.server.url}/lfs/{thing['oid']}"}}}
                for thing in json.loads(self.body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})

    def store(self, oid):
        sound = hashlib.sha256(self.body).hexdigest() == oid
        self.server.large[oid] = self.body
        self.answer({}, 200 if sound else 400)

    def commit(self, name):
        if not self.known() or (repo := self.repo(name)) is None:
            return
        if self.server.refuse:
            self.error(*self.server.refuse)
            return
        files, header = dict(repo.commits[repo.head]), {}
        for line in map(json.loads, self.body.splitlines()):
            match line["key"], line["value"]:
                case "header", header:
                    pass
                case "file", value:
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile", value:
                    files[value["path"]] = self.server.large[value["oid"]]
                case "deletedFile", value:
                    del files[value["path"]]
        if header.get("parentCommit") != repo.head:
            self.error(412, "A commit has happened since")
            return
        sha = repo.add(files, header["summary"])
        self.answer({"commitUrl": f"{self.server.url}/{name}/commit/{sha}", "commitOid": sha})

    def resolve(self, name, revision, path):
        if (repo := self.repo(name)) is None:
            return
        sha, files = repo.at(revision)
        if path not in files:
            self.error(404, "Entry not found", "EntryNotFound")
        else:
            self.answer(files[path], ETag=f'"{_oid(files[path])}"', X_Repo_Commit=sha)


def _oid(data):
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


NAME = r"(\w[\w.-]*/\w[\w.-]*)"
ROUTES = [
    (["GET"], "/api/whoami-v2", Handler.whoami),
    (["POST"], "/api/repos/create", Handler.create),
    (["POST"], "/api/validate-yaml", Handler.validate),
    (["GET"], f"/api/models/{NAME}", Handler.info),
    (["GET"], f"/api/models/{NAME}/revision/(.+)", Handler.info),
    (["GET"], f"/api/models/{NAME}/tree/([^/]+)", Handler.tree),
    (["POST"], f"/api/models/{NAME}/preupload/(.+)", Handler.preupload),
    (["POST"], f"/{NAME}\\.git/info/lfs/objects/batch", Handler.batch),
    (["PUT"], r"/lfs/(\w+)", Handler.store),
    (["POST"], f"/api/models/{NAME}/commit/main", Handler.commit),
    (["GET", "HEAD"], f"/{NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
]
