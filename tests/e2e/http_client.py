"""HTTP for the tests: one connection, requests and answers as they are; nothing of tensord."""

import http.client
import io
import json
import urllib.parse

import numpy as np

TIMEOUT_S = 60


class Answer:
    """An answer, read to its end."""

    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def code(self):
        """The code of a problem."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        problem = self.json
        assert problem["status"] == self.status and problem["detail"] and problem["title"]
        assert problem["type"] == f"urn:tensord:error:{problem['code']}"
        return problem["code"]

    @property
    def array(self):
        return np.load(io.BytesIO(self.body))


class Http:
    """One connection to a daemon's HTTP address; a session's key is kept as a cookie would be."""

    def __init__(self, url, token=None):
        self.address = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(
            self.address.hostname, self.address.port, timeout=TIMEOUT_S
        )
        self.session = None
        self.token = token

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.connection.close()

    def send(self, method, path, body=None, headers=None, **query):
        given = {**({"Tensord-Session": self.session} if self.session else {}), **(headers or {})}
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        if query:
            path += "?" + urllib.parse.urlencode(query)
        self.connection.request(method, path, body, given)
        answer = Answer(self.connection.getresponse())
        self.session = answer.headers.get("Tensord-Session", self.session)
        return answer

    def get(self, path, headers=None, **query):
        return self.send("GET", path, None, headers, **query)

    def tensor(self, name, headers=None, **query):
        return self.get("/v1/tensors/" + urllib.parse.quote(name), headers, **query)

    def put(self, name, body, headers=None, **query):
        """Stores an array as npy, a dict or list as JSON, bytes as they are."""
        given = dict(headers or {})
        if isinstance(body, np.ndarray):
            file = io.BytesIO()
            np.save(file, body)
            body = file.getvalue()
        elif isinstance(body, (dict, list)):
            body = json.dumps(body)
            given.setdefault("Content-Type", "application/json")
        return self.send("PUT", "/v1/tensors/" + urllib.parse.quote(name), body, given, **query)

    def op(self, name, headers=None, **fields):
        given = {"Content-Type": "application/json", **(headers or {})}
        return self.send("POST", f"/v1/ops/{name}", json.dumps(fields), given)

    def stats(self):
        return self.get("/v1/stats").json
