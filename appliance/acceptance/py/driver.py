"""One device of one person, played by matrix-nio and led by the acceptance suite (see led.py;
README.md lists the commands).
"""

import asyncio
import hashlib
import io
import pathlib
import sys
import tempfile

import aiohttp
import nio
from led import WAIT_S, Failure, play, until
from nio.crypto.attachments import decrypt_attachment

# How long one long-poll of /sync may last.
SYNC_MS = 10_000


class Driver:
    """The state of one device; every public method is one command."""

    def __init__(self, store: str):
        self.store = store
        self.client: nio.AsyncClient | None = None
        self.seen: list[dict] = []
        self.redacted: set[tuple[str, str]] = set()
        self.unreadable: set[str] = set()
        self.kept_out = False
        self.flow: str | None = None
        self.started: asyncio.Queue = asyncio.Queue()
        self.syncing: asyncio.Task | None = None
        self.ended: dict | None = None
        # Set after each answered /sync, so that waiting needs no polling.
        self.news = asyncio.Event()

    # Entering and leaving

    async def register(self, base_url, user, password):
        self._connect(base_url, user)
        answer = await self.client.register(user, password, device_name="nio")
        self._expect(answer, nio.RegisterResponse)
        return await self._entered()

    async def login(self, base_url, user, password):
        self._connect(base_url, user)
        answer = await self.client.login(password, device_name="nio")
        self._expect(answer, nio.LoginResponse)
        return await self._entered()

    async def logout(self):
        self.syncing.cancel()
        self._expect(await self.client.logout(), nio.LogoutResponse)
        return {}

    async def wait_ended(self):
        """What a client hears when somebody else ends its session."""
        await self._until(lambda: self.ended, "the end of the session")
        return self.ended

    async def sync_token(self):
        return {"next_batch": self.client.next_batch}

    # Rooms and words

    async def create_room(self, name, encrypted, invite):
        state = []
        if encrypted:
            state.append(nio.EnableEncryptionBuilder().as_dict())
        answer = await self.client.room_create(name=name, invite=invite, initial_state=state)
        self._expect(answer, nio.RoomCreateResponse)
        await self._until(lambda: answer.room_id in self.client.rooms, "the new room in /sync")
        return {"room_id": answer.room_id}

    async def join(self, room_id):
        await self._until(lambda: room_id in self.client.invited_rooms, "the invitation")
        self._expect(await self.client.join(room_id), nio.JoinResponse)
        await self._until(lambda: room_id in self.client.rooms, "the joined room in /sync")
        return {}

    async def wait_members(self, room_id, users):
        def all_here():
            room = self.client.rooms.get(room_id)
            return room and all(u in room.users and not room.users[u].invited for u in users)

        await self._until(all_here, f"the members {users}")
        if self.client.rooms[room_id].encrypted:
            await self._until(
                lambda: all(self._devices(u) for u in users if u != self.client.user_id),
                "everyone's device keys",
            )
        return {}

    async def send(self, room_id, body):
        content = {"msgtype": "m.text", "body": body}
        return {"event_id": await self._say(room_id, content)}

    async def wait_message(self, room_id, body, sender):
        event = await self._event(
            lambda e: e["room_id"] == room_id and e["body"] == body and e["sender"] == sender,
            f"the message of {sender}",
        )
        return {"event_id": event["event_id"], "encrypted": event["encrypted"]}

    async def wait_unreadable(self, room_id, event_id):
        await self._until(lambda: event_id in self.unreadable, f"{event_id} of {room_id}, unreadable")
        return {}

    async def wait_device_gone(self, user_id, device_id):
        await self._until(lambda: device_id not in self._devices(user_id), "the device to go")
        return {}

    async def redact(self, room_id, event_id):
        self._expect(await self.client.room_redact(room_id, event_id), nio.RoomRedactResponse)
        return {}

    async def wait_redacted(self, room_id, event_id):
        await self._until(lambda: (room_id, event_id) in self.redacted, "the redaction")
        return {}

    # Photos

    async def send_photo(self, room_id, path, encrypted):
        photo = pathlib.Path(path).read_bytes()
        answer, keys = await self.client.upload(
            lambda *_: io.BytesIO(photo),
            content_type="image/png",
            filename="wound.png",
            encrypt=encrypted,
            filesize=len(photo),
        )
        self._expect(answer, nio.UploadResponse)
        content = {
            "msgtype": "m.image",
            "body": "wound.png",
            "info": {"mimetype": "image/png", "size": len(photo)},
        }
        if encrypted:
            content["file"] = {**keys, "url": answer.content_uri, "mimetype": "image/png"}
        else:
            content["url"] = answer.content_uri
        return {"event_id": await self._say(room_id, content), "mxc": answer.content_uri}

    async def wait_photo(self, room_id, event_id):
        event = await self._event(
            lambda e: e["room_id"] == room_id and e["event_id"] == event_id, "the photo's event"
        )
        content = event["content"]
        secret = content.get("file")
        mxc = secret["url"] if secret else content["url"]
        answer = await self.client.download(mxc)
        self._expect(answer, nio.MemoryDownloadResponse)
        photo = answer.body
        if secret:
            photo = decrypt_attachment(
                photo, secret["key"]["k"], secret["hashes"]["sha256"], secret["iv"]
            )
        return {"sha256": hashlib.sha256(photo).hexdigest(), "mxc": mxc, "encrypted": bool(secret)}

    async def download(self, mxc):
        try:
            answer = await self.client.download(mxc)
        except aiohttp.ClientPayloadError:
            # A good answer, and the file's time was over before its bytes were on their way.
            return {"status": 200, "errcode": None}
        if isinstance(answer, nio.MemoryDownloadResponse):
            return {"status": answer.transport_response.status, "errcode": None}
        return {"status": answer.transport_response.status, "errcode": answer.status_code}

    # Emoji verification: nio speaks the form without a request, straight to the other device

    async def verify_start(self, user_id, device_id):
        await self._until(lambda: device_id in self._devices(user_id), "the other device")
        device = self.client.device_store[user_id][device_id]
        self._expect(await self.client.start_key_verification(device), nio.ToDeviceResponse)
        sas = self.client.get_active_sas(user_id, device_id)
        self.flow = sas.transaction_id
        return {}

    async def verify_accept(self, user_id):
        event = await asyncio.wait_for(self.started.get(), WAIT_S)
        if event.sender != user_id:
            raise Failure(f"{event.sender} started a verification, expected {user_id}")
        self.flow = event.transaction_id
        answer = await self.client.accept_key_verification(self.flow)
        self._expect(answer, nio.ToDeviceResponse)
        return {}

    async def verify_emoji(self):
        sas = self.client.key_verifications[self.flow]
        await self._until(lambda: sas.canceled or sas.established_sas, "the other side's key")
        if sas.canceled:
            raise Failure(f"verification cancelled: {sas.cancel_code} {sas.cancel_reason}")
        return {"emoji": [symbol for symbol, _ in sas.get_emoji()]}

    async def verify_confirm(self):
        sas = self.client.key_verifications[self.flow]
        answer = await self.client.confirm_short_auth_string(self.flow)
        self._expect(answer, nio.ToDeviceResponse)
        await self._until(lambda: sas.canceled or sas.verified, "the other side's MAC")
        if sas.canceled:
            raise Failure(f"verification cancelled: {sas.cancel_code} {sas.cancel_reason}")
        return {}

    async def trust(self, user_id, device_id):
        await self._until(lambda: device_id in self._devices(user_id), "the other device")
        # nio knows no cross-signing.
        return {"verified": self.client.device_store[user_id][device_id].verified}

    # What holds it together

    def _connect(self, base_url, user):
        config = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=False)
        self.client = nio.AsyncClient(base_url, user, store_path=self.store, config=config)

    async def _entered(self):
        client = self.client
        client.add_event_callback(self._on_event, nio.Event)
        client.add_to_device_callback(self._on_start, nio.KeyVerificationStart)
        client.add_response_callback(self._on_sync, nio.SyncResponse)
        client.add_response_callback(self._on_refusal, nio.SyncError)
        client.add_response_callback(self._on_keys_refused, nio.KeysUploadError)
        self.syncing = asyncio.create_task(self._sync_forever())
        await self._until(lambda: bool(client.next_batch), "the first /sync")
        await self._until(
            lambda: self.kept_out or not client.should_upload_keys, "the upload of the device keys"
        )
        return {
            "user_id": client.user_id,
            "device_id": client.device_id,
            "access_token": client.access_token,
        }

    async def _sync_forever(self):
        # A server that is away is asked again, with the old token, as a patient client does.
        while True:
            try:
                await self.client.sync_forever(timeout=SYNC_MS, loop_sleep_time=20)
            except aiohttp.ClientError as away:
                print(f"sync: {away!r}", file=sys.stderr)
                await asyncio.sleep(0.1)

    async def _on_sync(self, _response):
        self.news.set()

    async def _on_refusal(self, refusal):
        if refusal.status_code == "M_UNKNOWN_TOKEN":
            self.ended = {"errcode": refusal.status_code, "soft_logout": refusal.soft_logout}
            self.news.set()

    async def _on_keys_refused(self, refusal):
        self.kept_out = refusal.status_code == "M_FORBIDDEN"
        self.news.set()

    async def _on_start(self, event):
        self.started.put_nowait(event)

    async def _on_event(self, room, event):
        source = event.source
        if source.get("type") == "m.room.redaction":
            target = source.get("redacts") or source["content"].get("redacts")
            self.redacted.add((room.room_id, target))
            return
        if isinstance(event, nio.MegolmEvent):
            print(f"cannot decrypt {event.event_id}", file=sys.stderr)
            self.unreadable.add(event.event_id)
            return
        content = source.get("content", {})
        self.seen.append(
            {
                "room_id": room.room_id,
                "event_id": event.event_id,
                "sender": event.sender,
                "body": content.get("body"),
                "content": content,
                "encrypted": event.decrypted,
            }
        )

    def _devices(self, user_id) -> list[str]:
        return [d.id for d in self.client.device_store.active_user_devices(user_id)]

    async def _say(self, room_id, content):
        answer = await self.client.room_send(
            room_id, "m.room.message", content, ignore_unverified_devices=True
        )
        self._expect(answer, nio.RoomSendResponse)
        return answer.event_id

    async def _event(self, wanted, what):
        await self._until(lambda: any(wanted(e) for e in self.seen), what)
        return next(e for e in self.seen if wanted(e))

    async def _until(self, condition, what):
        def met():
            found = condition()
            if not found and self.syncing.done():
                raise Failure(f"the sync loop ended: {self.syncing.exception()!r}")
            return found

        await until(met, what, self.news)

    def _expect(self, answer, wanted):
        if not isinstance(answer, wanted):
            raise Failure(str(answer))


async def main():
    with tempfile.TemporaryDirectory() as store:
        driver = Driver(store)
        await play(driver)
        if driver.syncing:
            driver.syncing.cancel()
        if driver.client:
            await driver.client.close()


if __name__ == "__main__":
    asyncio.run(main())
