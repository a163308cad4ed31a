"""A hub on 127.0.0.1 that hands out one file, soundly or as bad networks do."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalHub:
    """Answers like huggingface.co where the file is, and 404 elsewhere.

    Args:
        path: Where it is: "/owner/name/resolve/main/model.safetensors".
        content: What it holds, as the checksum in the answer says.
        sent: What goes over the wire; another content is damage on the way.
        cut: After how many bytes the connection breaks, every time; None: never.

    Attributes:
        url: What HF_ENDPOINT is to say.
        requests: "HEAD" or "GET" for each time that the file was asked for.
        gate: The content is sent when this is set.
    """

    def __init__(self, path, content, *, sent=None, cut=None):
        self.requests = []
        self.gate = threading.Event()
        self.gate.set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                known = self.path == path
                if known:
                    hub.requests.append(self.command)
                self.send_response(200 if known else 404)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("Content-Length", str(len(content) if known else 0))
                self.end_headers()

            def do_GET(self):
                self.do_HEAD()
                if self.path == path:
                    assert hub.gate.wait(60)
                    self.wfile.write((sent or content)[:cut])

            def log_message(self, *_):
                """Keep the console clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.gate.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()
