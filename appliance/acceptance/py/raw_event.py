"""Sends one event to a server as another one's, without asking anybody: what a server does that cares for
no policy server.

    target/acceptance/synapse/bin/python -P appliance/acceptance/py/raw_event.py \
        --name localhost:8448 --key signing.key --to localhost:8449 --ca ca.pem --version 11 < event.json

`--key` is the signing key of the server that is spoken for, as Synapse keeps it. Prints the event's ID and
what was answered, as JSON.
"""

import argparse
import json
import ssl
import sys
import time
import urllib.request

from signedjson.key import read_signing_keys
from signedjson.sign import sign_json
from synapse.api.room_versions import KNOWN_ROOM_VERSIONS
from synapse.crypto.event_signing import add_hashes_and_signatures
from synapse.events import make_event_from_dict


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ["name", "key", "to", "ca", "version"]:
        parser.add_argument(f"--{name}", required=True)
    said = parser.parse_args()
    version = KNOWN_ROOM_VERSIONS[said.version]
    with open(said.key) as lines:
        key = read_signing_keys(lines)[0]
    event = json.load(sys.stdin)
    add_hashes_and_signatures(version, event, said.name, key)
    event_id = make_event_from_dict(dict(event), version).event_id
    path = f"/_matrix/federation/v1/send/raw{time.time_ns()}"
    body = {
        "origin": said.name,
        "origin_server_ts": time.time_ns() // 1_000_000,
        "pdus": [event],
        "edus": [],
    }
    signed = sign_json(
        {
            "method": "PUT",
            "uri": path,
            "origin": said.name,
            "destination": said.to,
            "content": body,
        },
        said.name,
        key,
    )
    key_id, signature = next(iter(signed["signatures"][said.name].items()))
    request = urllib.request.Request(
        f"https://{said.to}{path}",
        data=json.dumps(body).encode(),
        method="PUT",
        headers={
            "Content-Type": "application/json",
            "Authorization": f'X-Matrix origin="{said.name}",destination="{said.to}",'
            f'key="{key_id}",sig="{signature}"',
        },
    )
    trust = ssl.create_default_context(cafile=said.ca)
    with urllib.request.urlopen(request, context=trust, timeout=60) as answer:
        print(json.dumps({"event_id": event_id, "answer": json.load(answer)}))


main()
