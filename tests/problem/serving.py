"""A web server on this machine, for tests of downloads."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"\n<!DOCTYPE html><html><body>Please sign in</body></html>"


class Server:
    """Serves `files` by their paths, and records the requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.missing_bytes: dict[str, int] = {}  # announced but never sent
        self.requested_paths: list[str] = []
        self.open_until = threading.Event()  # when missing bytes are given up
        self.open_until.set()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.lstrip("/")
                server.requested_paths.append(path)
                if path not in server.files:
                    self.send_error(404)
                    return
                body, missing = server.files[path], server.missing_bytes.get(path, 0)
                self.send_response(200)
                self.send_header("Content-Length", str(len(body) + missing))
                self.end_headers()
                self.wfile.write(body)
                if missing:
                    server.open_until.wait(timeout=60)

            def log_message(self, *args: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.run_library = f"127.0.0.1:{self._http.server_port}"
        self.address = f"http://{self.run_library}/"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_until.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def left_in(folder) -> list[str]:
    """The names of all files below a folder, sorted."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
