"""Starts a Synapse on loopback: the suite's yardstick and the bench's peer.

    target/acceptance/synapse/bin/python appliance/acceptance/py/synapse.py \
        --dir /tmp/peer --port 8008 --name peer.example

With --federation-port and --tls it also speaks to other servers, by TLS; --name must then say that
port, as in localhost:8448.

The folder holds everything (SQLite database, media, signing key, log) and is reused by a second
start. The process becomes Synapse itself, so its id is the one to measure or to kill.
The registration secret comes from the environment variable SYNAPSE_SHARED_SECRET, never from the
command line, where every user of the machine could read it.
"""

import argparse
import os
import pathlib
import sys

# JSON is YAML, so the standard library can write Synapse's configuration.
import json

# A rate limit that nothing reaches: the suite measures behaviour, not patience.
UNLIMITED = {"per_second": 100_000, "burst_count": 100_000}


def federation(tls: pathlib.Path) -> dict:
    """What a peer needs beside: TLS of the test's own authority, on loopback, and no long waits."""
    return {
        "tls_certificate_path": str(tls / "server.pem"),
        "tls_private_key_path": str(tls / "server.key"),
        "federation_custom_ca_list": [str(tls / "ca.pem")],
        "ip_range_blacklist": [],
        "federation_ip_range_blacklist": [],
        "allow_public_rooms_over_federation": True,
        "room_list_publication_rules": [{"action": "allow"}],
        "rc_federation": {"reject_limit": 10_000, "concurrent": 50},
        # A test asks again and again for the same first sync, which would be answered from memory.
        "caches": {"sync_response_cache_duration": "0s"},
        "federation_rr_transactions_per_room_per_second": 1_000,
        "federation": {
            "destination_min_retry_interval": 500,
            "destination_retry_multiplier": 2,
            "destination_max_retry_interval": "2s",
            "client_timeout": "20s",
            "max_short_retries": 1,
            "max_long_retries": 1,
            "max_short_retry_delay": "1s",
            "max_long_retry_delay": "2s",
        },
    }


def configuration(home: pathlib.Path, name: str, port: int, secret: str) -> dict:
    return {
        "server_name": name,
        "public_baseurl": f"http://127.0.0.1:{port}/",
        "pid_file": str(home / "synapse.pid"),
        "report_stats": False,
        "suppress_key_server_warning": True,
        "trusted_key_servers": [],
        "signing_key_path": str(home / "signing.key"),
        "media_store_path": str(home / "media"),
        "log_config": str(home / "log.yaml"),
        "macaroon_secret_key": "for tests on loopback only",
        "registration_shared_secret": secret,
        "enable_registration": True,
        "enable_registration_without_verification": True,
        # The default cost, 12, as an installed Synapse has it, is 0.25 s of CPU for every login.
        "bcrypt_rounds": int(os.environ.get("SYNAPSE_BCRYPT_ROUNDS", "4")),
        "database": {
            "name": "sqlite3",
            "args": {"database": str(home / "homeserver.db")},
        },
        "listeners": [
            {
                "port": port,
                "type": "http",
                "bind_addresses": ["127.0.0.1"],
                "resources": [{"names": ["client"]}],
            }
        ],
        "presence": {"enabled": False},
        "url_preview_enabled": False,
        "max_upload_size": "50M",
        "rc_message": UNLIMITED,
        "rc_registration": UNLIMITED,
        "rc_registration_token_validity": UNLIMITED,
        "rc_login": {
            "address": UNLIMITED,
            "account": UNLIMITED,
            "failed_attempts": UNLIMITED,
        },
        "rc_admin_redaction": UNLIMITED,
        "rc_joins": {"local": UNLIMITED, "remote": UNLIMITED},
        "rc_joins_per_room": UNLIMITED,
        "rc_3pid_validation": UNLIMITED,
        "rc_key_requests": UNLIMITED,
        "rc_invites": {
            "per_room": UNLIMITED,
            "per_user": UNLIMITED,
            "per_issuer": UNLIMITED,
        },
        "rc_media_create": UNLIMITED,
        "rc_room_creation": UNLIMITED,
        "rc_reports": UNLIMITED,
        "rc_presence": {"per_user": UNLIMITED},
        "rc_delayed_event_mgmt": UNLIMITED,
        "remote_media_download_per_second": "1G",
        "remote_media_download_burst_count": "1G",
    }


LOGGING = {
    "version": 1,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s %(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}
    },
    "root": {"level": os.environ.get("SYNAPSE_LOG", "WARNING"), "handlers": ["stderr"]},
    "disable_existing_loggers": False,
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--dir", required=True, type=pathlib.Path, help="folder of all state")
    arguments.add_argument("--port", required=True, type=int, help="TCP port on 127.0.0.1")
    arguments.add_argument("--name", default="peer.example", help="server name")
    arguments.add_argument("--federation-port", type=int, help="TCP port for other servers")
    arguments.add_argument(
        "--tls", type=pathlib.Path, help="folder of server.pem, server.key and ca.pem, for other servers"
    )
    arguments.add_argument("--presence", action="store_true", help="tell others who is online")
    given = arguments.parse_args()

    secret = os.environ.pop("SYNAPSE_SHARED_SECRET", "")
    if not secret:
        sys.exit("synapse.py: set SYNAPSE_SHARED_SECRET to the registration secret to use")
    given.dir.mkdir(parents=True, exist_ok=True)
    home = given.dir.resolve()

    config_file = home / "homeserver.yaml"
    settings = configuration(home, given.name, given.port, secret)
    settings["presence"]["enabled"] = given.presence
    logging = LOGGING
    if given.federation_port:
        settings.update(federation(given.tls.resolve()))
        settings["listeners"].append(
            {
                "port": given.federation_port,
                "type": "http",
                "tls": True,
                "bind_addresses": ["127.0.0.1"],
                "resources": [{"names": ["federation"]}],
            }
        )
        # One line for each request: a test counts who came.
        access = f"synapse.access.https.{given.federation_port}"
        logging = {**LOGGING, "loggers": {access: {"level": "INFO"}}}
    config_file.write_text(json.dumps(settings, indent=1))
    config_file.chmod(0o600)
    (home / "log.yaml").write_text(json.dumps(logging, indent=1))

    if not (home / "signing.key").exists():
        from signedjson.key import generate_signing_key, write_signing_keys

        with open(home / "signing.key", "w") as file:
            write_signing_keys(file, [generate_signing_key("a_peer")])
    os.execv(
        sys.executable,
        [sys.executable, "-m", "synapse.app.homeserver", "--config-path", str(config_file)],
    )


if __name__ == "__main__":
    main()
