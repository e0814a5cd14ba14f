"""Requests to a server as bytes, which no client library would send."""

TOKEN = "a-token-of-no-secret-at-all"
POSTS = ("/api/predict", "/api/timeline", "/api/explain")


def head_of(method, path, *lines, host="127.0.0.1"):
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"host: {host}", *lines, "", "")).encode()


def status_of(answer):
    return int(answer.split(b" ", 2)[1])


def read(line):
    found = b""
    while data := line.recv(65536):
        found += data
    return found
