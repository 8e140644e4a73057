"""A bucket in memory, as the three clients see it that a run reaches gs:// with.

etils goes through fsspec, where a file system in memory takes the place of gcsfs; tensorstore (the
arrays of checkpoints) and array_record (the corpus) have clients of their own, which speak to a
server here in the JSON API of Google Cloud Storage, as far as they use it. Orbax asks Google's
client whether the bucket has folders (a hierarchical namespace): here it has none.
"""

from __future__ import annotations

import http.server
import json
import re
import sys
import threading
import types
import urllib.parse

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


class BucketFileSystem(MemoryFileSystem):
    """gs://bucket/name is /bucket/name of the store."""

    protocol = ("gs", "gcs")
    store: dict = {}
    pseudo_dirs = [""]  # noqa: RUF012  # as in its base
    root_marker = "/"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        path = re.sub("^(gs|gcs):/*", "/", str(path))
        return "/" + path.strip("/") if path.strip("/") else ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_) -> None:
        pass

    def _answer(self, data: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _parts(self) -> tuple[str, str, dict[str, str]]:
        """Bucket, object ('' if none is named) and the query."""
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        api = re.fullmatch(
            r"(?:/upload|/download)?/storage/v1/b/([^/]+)(?:/o(?:/(.+))?)?", url.path
        )
        direct = re.fullmatch(r"/([^/]+)/(.+)", url.path)  # XML API, for reading
        found = api or direct
        assert found, self.path
        return found[1], urllib.parse.unquote(found[2] or ""), query

    def _resource(self, path: str) -> dict:
        file = BucketFileSystem.store[path]
        _, bucket, name = path.split("/", 2)
        generation = str(int(file.modified.timestamp() * 1e6))
        return {
            "kind": "storage#object", "bucket": bucket, "name": name, "generation": generation,
            "metageneration": "1", "size": str(len(file.getvalue())), "etag": generation,
            "updated": file.modified.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "timeCreated": file.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }  # fmt: skip

    def do_GET(self) -> None:
        bucket, name, query = self._parts()
        path = f"/{bucket}/{name}"
        if not name:
            first = f"/{bucket}/{query.get('prefix', '')}"
            names = sorted(p for p in list(BucketFileSystem.store) if p.startswith(first))
            start, end = query.get("startOffset", ""), query.get("endOffset", "\U0010ffff")
            kept = [p for p in names if start <= p.split("/", 2)[2] < end]
            self._answer(json.dumps({"items": [self._resource(p) for p in kept]}).encode())
        elif path not in BucketFileSystem.store:
            self._answer(b"{}", 404)
        elif "/storage/v1/" in self.path and query.get("alt") != "media":
            self._answer(json.dumps(self._resource(path)).encode())
        else:
            data = BucketFileSystem.store[path].getvalue()
            generation = {"x_goog_generation": self._resource(path)["generation"]}
            asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if not asked:
                self._answer(data, **generation)
                return
            low, high = asked[1], asked[2]
            start = int(low) if low else max(0, len(data) - int(high))
            stop = min(len(data), int(high) + 1) if low and high else len(data)
            place = f"bytes {start}-{stop - 1}/{len(data)}"
            self._answer(data[start:stop], 206, Content_Range=place, **generation)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        bucket, _, query = self._parts()
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = f"/{bucket}/{query['name']}"
        condition = query.get("ifGenerationMatch")
        found = self._resource(path)["generation"] if path in BucketFileSystem.store else "0"
        if condition is not None and condition != found:
            self._answer(b"{}", 412)
            return
        BucketFileSystem().pipe_file(path, data)
        self._answer(json.dumps(self._resource(path)).encode())

    def do_DELETE(self) -> None:
        bucket, name, _ = self._parts()
        known = BucketFileSystem.store.pop(f"/{bucket}/{name}", None)
        self._answer(b"", 204 if known else 404)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        pass  # a client that goes without saying so


def serve() -> Server:
    """A server that runs until its `shutdown`; its `server_port` tells where."""
    storage = types.ModuleType("google.cloud.storage")
    bucket = types.SimpleNamespace(hierarchical_namespace_enabled=False)
    storage.Client = lambda: types.SimpleNamespace(get_bucket=lambda name: bucket)
    sys.modules |= {"google.cloud": types.ModuleType("google.cloud"), storage.__name__: storage}
    sys.modules["google.cloud"].storage = storage
    fsspec.register_implementation("gs", BucketFileSystem, clobber=True)
    fsspec.register_implementation("gcs", BucketFileSystem, clobber=True)
    server = Server(("localhost", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
