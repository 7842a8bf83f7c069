"""The description of the paths: all of them, with what they take."""

from __future__ import annotations

import json
from typing import Any


def test_every_path_is_described(client: Any) -> None:
    assert client.ask("/openapi.json", headers={})[0] == 403
    status, content = client.ask("/openapi.json")
    found = json.loads(content)
    assert status == 200 and found["openapi"].startswith("3.1")
    assert "http" not in json.dumps(found["paths"])  # nothing is loaded from elsewhere
    predict = found["paths"]["/api/predict"]["post"]
    assert predict["requestBody"]["content"]["application/octet-stream"]["schema"]["type"]
    names = {each["name"]: each["in"] for each in predict["parameters"]}
    assert names == {"model": "query"}
    one = found["paths"]["/api/project/{name}/{file}"]
    assert set(one) == {"get", "put", "delete"}
    required = {each["name"]: each["required"] for each in one["put"]["parameters"]}
    assert required == {"name": True, "file": True, "from": False}
    assert "requestBody" not in found["paths"]["/api/learn"]["post"]
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            assert len(operation["summary"]) > 10, (path, method)
            assert set(operation["responses"]) >= {"200", "403", "503"}
