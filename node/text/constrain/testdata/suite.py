"""Writes the schemas of JSON Schema's test suite for draft 2020-12 to suite.json, without
those that refer to other documents or vocabularies. The suite is in the source archive of
the Python package jsonschema, at json/:

    python3 suite.py json/tests/draft2020-12 > suite.json
"""
import json
import os
import sys

out = {}
for file in sorted(os.listdir(sys.argv[1])):
    if not file.endswith(".json") or file in ("refRemote.json", "dynamicRef.json", "vocabulary.json"):
        continue
    for group in json.load(open(os.path.join(sys.argv[1], file))):
        if "localhost" in json.dumps(group["schema"]):
            continue
        schema = group["schema"]
        if isinstance(schema, dict):
            schema.pop("$schema", None)
        out[file[:-5] + ": " + group["description"]] = schema
print("{\n" + ",\n".join(json.dumps(k) + ": " + json.dumps(v) for k, v in out.items()) + "\n}")
