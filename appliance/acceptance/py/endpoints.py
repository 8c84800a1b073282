"""Makes data/endpoints.jsonl from the OpenAPI files of the Matrix specification.

    python3 appliance/acceptance/py/endpoints.py SPECIFICATION/data/api > .../data/endpoints.jsonl

Needs PyYAML. Run only when the sweep is to cover a newer version of the specification.
"""

import json
import pathlib
import sys

import yaml

METHODS = ("get", "put", "post", "delete", "patch")
# Deeper fields are seldom declared, and never reached without the outer ones.
DEPTH_MAX = 3


def load(path, cache={}):
    path = path.resolve()
    if path not in cache:
        cache[path] = yaml.safe_load(path.read_text())
    return cache[path]


def resolve(node, at):
    """Follows references until there is a schema; returns it with the file it is in."""
    while isinstance(node, dict) and "$ref" in node:
        target, _, pointer = node["$ref"].partition("#")
        at = (at.parent / target) if target else at
        node = load(at)
        for step in filter(None, pointer.split("/")):
            node = node[step.replace("~1", "/").replace("~0", "~")]
    return node, at


def properties(schema, at):
    """The declared properties of an object: (name, schema, file, required)."""
    schema, at = resolve(schema, at)
    if not isinstance(schema, dict):
        return
    required = schema.get("required", [])
    for name, inner in schema.get("properties", {}).items():
        yield name, inner, at, name in required
    for part in schema.get("allOf", []):
        yield from properties(part, at)


def kind(schema):
    declared = schema.get("type")
    if isinstance(declared, list):
        declared = declared[0]
    if declared:
        return declared
    if "properties" in schema or "allOf" in schema:
        return "object"
    return "any"


def body_fields(schema, at, prefix="", depth=1):
    for name, inner, where, required in properties(schema, at):
        inner, where = resolve(inner, where)
        pointer = f"{prefix}/{name.replace('~', '~0').replace('/', '~1')}"
        field = {"in": "body", "name": pointer, "type": kind(inner), "required": required}
        if "enum" in inner:
            field["one_of"] = inner["enum"]
        yield field
        if kind(inner) == "object" and depth < DEPTH_MAX:
            yield from body_fields(inner, where, pointer, depth + 1)


def body(operation, at):
    given = operation.get("requestBody")
    if not given:
        return "none", []
    given, at = resolve(given, at)
    content = given.get("content", {})
    if "application/json" not in content:
        return "bytes", []
    return "json", list(body_fields(content["application/json"].get("schema", {}), at))


def access(operation, folder):
    schemes = [name for entry in operation.get("security", []) for name in entry]
    optional = {} in operation.get("security", [])
    if folder == "server-server":
        return "server" if schemes else "none"
    if any("appservice" in name.lower() for name in schemes) and "accessTokenBearer" not in schemes:
        return "appservice"
    if schemes:
        return "optional" if optional else "token"
    return "none"


def parameters(entry, operation, at):
    for given in [*entry.get("parameters", []), *operation.get("parameters", [])]:
        given, where = resolve(given, at)
        if given["in"] not in ("path", "query"):
            continue
        schema, _ = resolve(given.get("schema", {}), where)
        field = {
            "in": given["in"],
            "name": given["name"],
            "type": kind(schema),
            "required": given.get("required", False),
        }
        if "enum" in schema:
            field["one_of"] = schema["enum"]
        yield field


def endpoints(root):
    for folder in ("client-server", "server-server"):
        for file in sorted((root / folder).glob("*.yaml")):
            document = load(file)
            base = document.get("servers", [{}])[0].get("variables", {}).get("basePath", {})
            base = base.get("default", "").rstrip("/")
            for path, entry in document.get("paths", {}).items():
                for method in METHODS:
                    operation = entry.get(method)
                    if not operation:
                        continue
                    what, fields = body(operation, file)
                    yield {
                        "method": method.upper(),
                        "path": base + path.strip(),
                        "access": access(operation, folder),
                        "body": what,
                        "fields": [*parameters(entry, operation, file), *fields],
                    }


def main():
    root = pathlib.Path(sys.argv[1])
    found = sorted(endpoints(root), key=lambda e: (e["path"], e["method"]))
    told = set()
    for endpoint in found:
        # One path is described twice where two bodies are possible; the first tells enough.
        if (endpoint["method"], endpoint["path"]) in told:
            continue
        told.add((endpoint["method"], endpoint["path"]))
        print(json.dumps(endpoint, separators=(",", ":")))


if __name__ == "__main__":
    main()
