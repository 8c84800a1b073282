"""A small bridge, played by mautrix and led by the acceptance suite (see led.py)."""

import asyncio

from led import WAIT_S, Failure, play, until
from mautrix.appservice import AppService
from mautrix.appservice.state_store import ASStateStore
from mautrix.client import Client
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.crypto.store import StateStore as CryptoStateStore
from mautrix.errors import SessionNotFound
from mautrix.types import EventType, MessageType, TextMessageEventContent


class Rooms(ASStateStore, MemoryStateStore):
    """What mautrix remembers of rooms."""

    def __init__(self):
        ASStateStore.__init__(self)
        MemoryStateStore.__init__(self)


class Encrypted(CryptoStateStore):
    """What its encryption asks about rooms."""

    def __init__(self, rooms):
        self.rooms = rooms

    async def is_encrypted(self, room_id):
        return bool(await self.rooms.is_encrypted(room_id))

    async def get_encryption_info(self, room_id):
        return await self.rooms.get_encryption_info(room_id)

    async def find_shared_rooms(self, user_id):
        return [room for room, members in self.rooms.members.items() if user_id in members]


class Bridge:
    """The state of the bridge; every public method is one command."""

    def __init__(self):
        self.seen = []
        self.news = asyncio.Event()

    async def start(self, base_url, domain, port, as_token, hs_token):
        self.rooms = Rooms()
        self.az = AppService(
            base_url, domain, as_token, hs_token, "bridgebot", "bridge",
            state_store=self.rooms, ephemeral_events=True, encryption_events=True,
        )
        self.az.matrix_event_handler(self._on_event)
        await self.az.start("127.0.0.1", port)
        await self.az.intent.ensure_registered()
        duration_ms = await self.az.ping_self("hello")
        who = await self.az.intent.whoami()
        return {"user_id": who.user_id, "duration_ms": duration_ms}

    async def start_encryption(self):
        self.client = Client(
            base_url=self.az.server, mxid=self.az.bot_mxid, state_store=self.rooms
        )
        self.store = MemoryCryptoStore("", "pickle")
        self.crypto = OlmMachine(self.client, self.store, Encrypted(self.rooms))
        self.az.otk_handler = self.crypto.handle_as_otk_counts
        self.az.device_list_handler = self.crypto.handle_as_device_lists
        self.az.to_device_handler = self.crypto.handle_as_to_device_event
        self.client.api.token = self.az.as_token
        await self.client.create_device_msc4190(
            device_id="BRIDGE", initial_display_name="Bridge"
        )
        await self.crypto.load()
        await self.crypto.share_keys()
        who = await self.client.whoami()
        return {"device_id": who.device_id}

    async def ghost(self, name, displayname):
        intent = self._intent(name)
        await intent.ensure_registered()
        await intent.set_displayname(displayname)
        return {"user_id": intent.mxid}

    async def create_room(self, name, invite):
        room_id = await self._intent(name).create_room(name="Pagers", invitees=invite)
        return {"room_id": room_id}

    async def join(self, name, room_id):
        await self._intent(name).join_room(room_id)
        return {}

    async def send(self, name, room_id, body, timestamp=None):
        event_id = await self._intent(name).send_text(room_id, body, timestamp=timestamp)
        return {"event_id": event_id}

    async def send_encrypted(self, room_id, body):
        members = await self.az.intent.get_room_members(room_id)
        info = await self.az.intent.get_state_event(room_id, EventType.ROOM_ENCRYPTION)
        await self.rooms.set_encryption_info(room_id, info)
        await self.crypto.share_group_session(room_id, members)
        content = TextMessageEventContent(msgtype=MessageType.TEXT, body=body)
        encrypted = await self.crypto.encrypt_megolm_event(room_id, EventType.ROOM_MESSAGE, content)
        event_id = await self.client.send_message_event(room_id, EventType.ROOM_ENCRYPTED, encrypted)
        return {"event_id": event_id}

    async def wait_message(self, room_id, body, sender):
        def wanted(event):
            if str(event.type) != "m.room.message" or event.room_id != room_id:
                return False
            return event.content.body == body and event.sender == sender

        event = await self._seen(wanted, f"the message of {sender}")
        return {"event_id": event.event_id}

    async def wait_encrypted(self, room_id, body, sender):
        def wanted(event):
            return str(event.type) == "m.room.encrypted" and event.room_id == room_id

        event = await self._seen(wanted, f"an encrypted message of {sender}")
        try:
            decrypted = await self.crypto.decrypt_megolm_event(event)
        except SessionNotFound:
            # The key may come after the message. It is not waited for when it is there: mautrix
            # waits for the arrival of one.
            session_id = event.content.session_id
            await self.crypto.wait_for_session(room_id, session_id, timeout=WAIT_S)
            decrypted = await self.crypto.decrypt_megolm_event(event)
        if decrypted.content.body != body or decrypted.sender != sender:
            raise Failure(f"decrypted something else: {decrypted.content.body}")
        return {"event_id": event.event_id}

    async def wait_member(self, room_id, user_id, membership):
        def wanted(event):
            if str(event.type) != "m.room.member" or event.room_id != room_id:
                return False
            return event.state_key == user_id and str(event.content.membership) == membership

        await self._seen(wanted, f"{user_id} to be {membership}")
        return {}

    async def wait_typing(self, room_id, user_id):
        def wanted(event):
            if str(event.type) != "m.typing" or event.room_id != room_id:
                return False
            return user_id in event.content.user_ids

        await self._seen(wanted, f"{user_id} typing")
        return {}

    async def wait_receipt(self, room_id, event_id, user_id):
        def wanted(event):
            if str(event.type) != "m.receipt" or event.room_id != room_id:
                return False
            receipts = event.content.get(event_id, {})
            return any(user_id in users for users in receipts.values())

        await self._seen(wanted, f"the receipt of {user_id}")
        return {}

    async def stop(self):
        await self.az.stop()
        return {}

    # What holds it together

    def _intent(self, name):
        if name == "bridgebot":
            return self.az.intent
        return self.az.intent.user(f"@{name}:{self.az.domain}")

    async def _on_event(self, event):
        self.seen.append(event)
        self.news.set()

    async def _seen(self, wanted, what):
        return await until(lambda: next(filter(wanted, self.seen), None), what, self.news)


if __name__ == "__main__":
    asyncio.run(play(Bridge()))
