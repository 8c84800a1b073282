// One device of one person, played by matrix-js-sdk with its Rust cryptography in WebAssembly, and
// led by the acceptance suite.
//
// Reads one JSON command a line from standard input and answers each with one JSON line on standard
// output (README.md lists the commands). Everything the SDK prints goes to standard error.

import "./runtime.mjs";

import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createInterface } from "node:readline";

import { Attachment, EncryptedAttachment } from "@matrix-org/matrix-sdk-crypto-wasm";
import {
    ClientEvent,
    EventType,
    HttpApiEvent,
    IndexedDBStore,
    MsgType,
    RelationType,
    RoomEvent,
    SyncState,
    createClient,
} from "matrix-js-sdk";
import { CryptoEvent, VerificationPhase, VerifierEvent, decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/index.js";
import { logger } from "matrix-js-sdk/lib/logger.js";
import { RoomHierarchy } from "matrix-js-sdk/lib/room-hierarchy.js";

logger.setLevel?.(process.env.DRIVER_LOG ?? "warn", false);

// How long one command may wait for something to arrive. It bounds a hang; nothing measures it.
const WAIT_MS = 120_000;
const LOOK_AGAIN_MS = 100;
const POLL_MS = 10_000;
// Events of a room in one answer to /sync, as Element Web asks.
const SYNC_LIMIT = 20;

// Forgets by itself what is over: with a store to forget it from, and a clock that can be moved.
const FORGETS = process.env.DRIVER_FORGETS === "yes";
if (FORGETS) await import("fake-indexeddb/auto");

async function storeOnDisk() {
    if (!FORGETS) return null;
    const store = new IndexedDBStore({ indexedDB, dbName: "app" });
    await store.startup();
    return store;
}

// Waits of minutes end when the clock has been moved so far; shorter ones go on as they are.
const letPass = FORGETS ? movableClock() : () => fail("this clock goes by itself");

function movableClock() {
    const MOVED_MS_MIN = 60_000;
    const [now, wait, cancel] = [Date.now, setTimeout, clearTimeout];
    const waiting = new Set();
    let ahead = 0;
    Date.now = () => now() + ahead;
    globalThis.setTimeout = (work, ms, ...given) => {
        if (!(ms >= MOVED_MS_MIN)) return wait(work, ms, ...given);
        const waits = { at: Date.now() + ms, work: () => work(...given) };
        waiting.add(waits);
        return waits;
    };
    globalThis.clearTimeout = (waits) => void (waiting.delete(waits) || cancel(waits));
    return (ms) => {
        ahead += ms;
        for (const waits of [...waiting].filter((each) => each.at <= Date.now())) {
            waiting.delete(waits);
            waits.work();
        }
    };
}

class Driver {
    client = null;
    password = null;
    recoveryKey = null;
    requests = [];
    request = null;
    sas = null;
    redacted = new Set();
    keysToBackUp = null;
    ended = null;
    away = false;
    // Events on their way. The server gives the answers to /send and to the /sync that it wakes within
    // the same fifth of a millisecond; matrix-js-sdk 43 stumbles over a relation in a thread when
    // /sync is the first ("not a local echo").
    sending = 0;
    // What the answers to /sync were made of.
    synced = { without: 0, after: 0, before: 0, limited: 0 };

    // Entering and leaving

    async register({ base_url, user, password }) {
        const door = createClient({ baseUrl: base_url });
        const wanted = { username: user, password, initial_device_display_name: "js" };
        // As a client does: ask first, learn the session and the stages, then answer them.
        const session = await door.registerRequest(wanted).then(
            () => fail("registration asked for nothing"),
            (error) => error.data?.session ?? fail(`registration refused: ${error}`),
        );
        const auth = { type: "m.login.dummy", session };
        return this.#enter(base_url, await door.registerRequest({ ...wanted, auth }), password);
    }

    async login({ base_url, user, password }) {
        const door = createClient({ baseUrl: base_url });
        const answer = await door.loginRequest({
            type: "m.login.password",
            identifier: { type: "m.id.user", user },
            password,
            initial_device_display_name: "js",
        });
        return this.#enter(base_url, answer, password);
    }

    async #enter(baseUrl, { user_id, device_id, access_token }, password) {
        this.password = password;
        const store = await storeOnDisk();
        this.client = createClient({
            ...(store && { store }),
            baseUrl,
            userId: user_id,
            deviceId: device_id,
            accessToken: access_token,
            fetchFn: (input, init) => this.#fetchNoted(input, init),
            unstableMSC1763Retention: FORGETS,
            cryptoCallbacks: {
                getSecretStorageKey: async ({ keys }) =>
                    this.recoveryKey && [Object.keys(keys)[0], this.recoveryKey],
                cacheSecretStorageKey: (_id, _info, key) => (this.recoveryKey = key),
            },
        });
        await this.client.initRustCrypto({ useIndexedDB: false });
        this.client.on(CryptoEvent.VerificationRequestReceived, (r) => this.requests.push(r));
        this.client.on(CryptoEvent.KeyBackupSessionsRemaining, (n) => (this.keysToBackUp = n));
        this.client.on(HttpApiEvent.SessionLoggedOut, ({ errcode, data }) => (this.ended = { errcode, soft_logout: data.soft_logout ?? false }));
        this.client.on(RoomEvent.Redaction, (event) => this.redacted.add(event.event.redacts ?? event.getContent().redacts));
        // As Element Web starts: lazily loaded members, threads.
        await this.client.startClient({
            initialSyncLimit: SYNC_LIMIT,
            lazyLoadMembers: true,
            threadSupport: true,
            pollTimeout: POLL_MS,
        });
        await this.#syncing();
        return { user_id, device_id, access_token };
    }

    #syncing() {
        return until(() => [SyncState.Prepared, SyncState.Syncing].includes(this.client.getSyncState()), "/sync");
    }

    // Out of reach of the network: no request leaves, no answer arrives.
    async go_away() {
        this.away = true;
        return {};
    }

    async come_back() {
        this.away = false;
        this.client.retryImmediately();
        await this.#syncing();
        return {};
    }

    async synced_how() {
        return this.synced;
    }

    async #fetchNoted(input, init) {
        const unreachable = () => this.away && fail("out of reach");
        unreachable();
        const url = new URL(input);
        const sends = url.pathname.includes("/send/");
        if (sends) this.sending += 1;
        const answer = await fetch(input, init).finally(() => sends && setTimeout(() => (this.sending -= 1), LOOK_AGAIN_MS));
        unreachable();
        if (!answer.ok || !url.pathname.endsWith("/v3/sync")) return answer;
        await until(() => this.sending === 0, "the answer to /send");
        if (url.searchParams.get("org.matrix.msc4222.use_state_after") !== "true") this.synced.without += 1;
        for (const room of Object.values((await answer.clone().json()).rooms?.join ?? {})) {
            if (room["org.matrix.msc4222.state_after"]) this.synced.after += 1;
            if (room.state) this.synced.before += 1;
            if (room.timeline?.limited) this.synced.limited += 1;
        }
        return answer;
    }

    async logout() {
        await this.client.logout(true);
        return {};
    }

    // What a client hears when somebody else ends its session.
    async wait_ended() {
        return until(() => this.ended, "the end of the session");
    }

    async sync_token() {
        return { next_batch: this.client.store.getSyncToken() };
    }

    // Rooms and words

    async create_room({ name, encrypted, invite }) {
        const initial_state = encrypted
            ? [{ type: EventType.RoomEncryption, state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }]
            : [];
        const { room_id } = await this.client.createRoom({ name, invite, preset: "private_chat", initial_state });
        await until(() => this.client.getRoom(room_id), "the new room in /sync");
        return { room_id };
    }

    async join({ room_id }) {
        await until(() => this.client.getRoom(room_id)?.getMyMembership() === "invite", "the invitation");
        await this.client.joinRoom(room_id);
        await until(() => this.client.getRoom(room_id)?.getMyMembership() === "join", "the joined room in /sync");
        return {};
    }

    async wait_members({ room_id, users }) {
        const room = await until(() => this.client.getRoom(room_id), "the room");
        await room.loadMembersIfNeeded();
        await until(() => users.every((u) => room.getMember(u)?.membership === "join"), `the members ${users}`);
        if (await this.client.getCrypto().isEncryptionEnabledInRoom(room_id)) {
            await until(async () => (await Promise.all(users.map((u) => this.#devices(u)))).every((d) => d.length), "everyone's device keys");
        }
        return {};
    }

    async send({ room_id, body }) {
        const { event_id } = await this.client.sendMessage(room_id, { msgtype: MsgType.Text, body });
        return { event_id };
    }

    async wait_message({ room_id, body, sender }) {
        const event = await this.#event(room_id, (e) => e.getContent().body === body && e.getSender() === sender, `the message of ${sender}`);
        return { event_id: event.getId(), encrypted: event.isEncrypted() };
    }

    async redact({ room_id, event_id }) {
        await this.client.redactEvent(room_id, event_id);
        return {};
    }

    async wait_redacted({ room_id, event_id }) {
        await until(() => this.redacted.has(event_id), "the redaction");
        const event = this.client.getRoom(room_id).findEventById(event_id);
        if (event && !event.isRedacted()) fail("the redaction came, but the event still shows its content");
        return {};
    }

    // Forgotten by the client itself: there is a server to ask no more.
    async wait_forgotten({ room_id, event_id }) {
        const event = this.client.getRoom(room_id).findEventById(event_id);
        await until(() => event.isRedacted() && !event.getContent().body, "the words to be forgotten");
        return {};
    }

    async let_pass({ ms }) {
        letPass(ms);
        return {};
    }

    // What another start of the app would read, as the first look also has it written down.
    async stores({ body }) {
        const holds = async () => {
            const saved = await (await storeOnDisk()).getSavedSync();
            return JSON.stringify(saved).includes(body);
        };
        if (this.client.clientRunning && !(await holds())) await this.client.store.save(true);
        return { stored: await holds() };
    }

    // Threads and relations

    async reply_in_thread({ room_id, root, body }) {
        // As Element Web opens a thread that nobody has written in: it must be there before its first
        // event comes back from the server.
        const room = this.client.getRoom(room_id);
        const first = room.findEventById(root);
        if (!room.getThread(root)) room.createThread(root, first, [first], true);
        const { event_id } = await this.client.sendMessage(room_id, root, { msgtype: MsgType.Text, body });
        return { event_id };
    }

    async wait_thread({ room_id, root, length, body }) {
        const thread = await until(() => {
            const thread = this.client.getRoom(room_id)?.getThread(root);
            return thread?.initialEventsFetched && thread.replyToEvent?.getContent().body === body && thread;
        }, `a thread with ${body} at its end`);
        // As the server counts: matrix-js-sdk's own number may hold a reply of one's own twice.
        const counted = async () => (await this.client.fetchRoomEvent(room_id, root)).unsigned["m.relations"]["m.thread"];
        await until(async () => (await counted()).count === length, `${length} in the thread`);
        const bodies = thread.events.map((event) => event.getContent().body);
        return { bodies, participated: thread.hasCurrentUserParticipated };
    }

    async wait_unread({ room_id, root, in_thread, in_room }) {
        const room = this.client.getRoom(room_id);
        const counts = () => [room.getThreadUnreadNotificationCount(root), room.getRoomUnreadNotificationCount()];
        await until(() => counts()[0] === in_thread && counts()[1] === in_room, `${in_thread} and ${in_room} unread`);
        return {};
    }

    async read_thread({ room_id, root }) {
        await this.client.sendReadReceipt(this.client.getRoom(room_id).getThread(root).replyToEvent);
        return {};
    }

    // The list that the panel of threads shows.
    async threads({ room_id }) {
        const room = this.client.getRoom(room_id);
        await room.createThreadsTimelineSets();
        await room.fetchRoomThreads();
        return { roots: room.getThreads().map((thread) => thread.id) };
    }

    async react({ room_id, event_id, key }) {
        const content = { "m.relates_to": { rel_type: RelationType.Annotation, event_id, key } };
        return { event_id: (await this.client.sendEvent(room_id, EventType.Reaction, content)).event_id };
    }

    async edit({ room_id, event_id, body }) {
        const content = { msgtype: MsgType.Text, body: `* ${body}`, "m.new_content": { msgtype: MsgType.Text, body } };
        content["m.relates_to"] = { rel_type: RelationType.Replace, event_id };
        return { event_id: (await this.client.sendMessage(room_id, content)).event_id };
    }

    async wait_related({ room_id, event_id, body, key, reactions }) {
        const room = this.client.getRoom(room_id);
        await until(() => room.findEventById(event_id)?.getContent().body === body, `the edit to ${body}`);
        const seen = () => room.relations.getChildEventsForEvent(event_id, RelationType.Annotation, EventType.Reaction);
        await until(() => seen()?.getSortedAnnotationsByKey()?.some(([k, of]) => k === key && of.size === reactions), `${reactions} ${key}`);
        return {};
    }

    async relations({ room_id, event_id, rel_type }) {
        const { events } = await this.client.relations(room_id, event_id, rel_type, null, { limit: 10 });
        return { event_ids: events.map((event) => event.getId()) };
    }

    // Spaces, search, state

    async create_space({ name, children }) {
        const { room_id } = await this.client.createRoom({ name, preset: "private_chat", creation_content: { type: "m.space" } });
        for (const child of children) {
            await this.client.sendStateEvent(room_id, EventType.SpaceChild, { via: [this.client.getDomain()] }, child);
        }
        await until(() => this.client.getRoom(room_id)?.isSpaceRoom(), "the new space in /sync");
        return { room_id };
    }

    async hierarchy({ room_id }) {
        const hierarchy = new RoomHierarchy(this.client.getRoom(room_id), 1);
        while (hierarchy.canLoadMore) await hierarchy.load();
        return { rooms: hierarchy.rooms.map((room) => ({ room_id: room.room_id, name: room.name, type: room.room_type ?? null })) };
    }

    async search({ term }) {
        const { count, results } = await this.client.searchRoomEvents({ term });
        return { count, event_ids: results.map((result) => result.context.getEvent().getId()) };
    }

    async set_state({ room_id, type, content }) {
        await this.client.sendStateEvent(room_id, type, content, "");
        return {};
    }

    async wait_state({ room_id, type, content }) {
        const now = () => this.client.getRoom(room_id)?.getLiveTimeline().getState("f")?.getStateEvents(type, "")?.getContent();
        await until(() => JSON.stringify(now()) === JSON.stringify(content), `the ${type} ${JSON.stringify(content)}`);
        return { name: this.client.getRoom(room_id).name };
    }

    // Photos

    async send_photo({ room_id, path, encrypted }) {
        const photo = new Uint8Array(await readFile(path));
        const content = { msgtype: MsgType.Image, body: "wound.png", info: { mimetype: "image/png", size: photo.length } };
        let upload = photo;
        if (encrypted) {
            const sealed = Attachment.encrypt(photo);
            upload = sealed.encryptedData;
            content.file = JSON.parse(sealed.mediaEncryptionInfo);
        }
        const type = encrypted ? "application/octet-stream" : "image/png";
        const { content_uri } = await this.client.uploadContent(upload, { type, name: encrypted ? undefined : "wound.png" });
        if (encrypted) content.file.url = content_uri;
        else content.url = content_uri;
        const { event_id } = await this.client.sendMessage(room_id, content);
        return { event_id, mxc: content_uri };
    }

    async wait_photo({ room_id, event_id }) {
        const event = await this.#event(room_id, (e) => e.getId() === event_id && e.getContent().msgtype, "the photo's event");
        const { file, url } = event.getContent();
        const answer = await this.#fetch(file?.url ?? url);
        if (!answer.ok) fail(`the photo's download answered ${answer.status}`);
        let photo = new Uint8Array(await answer.arrayBuffer());
        if (file) photo = Attachment.decrypt(new EncryptedAttachment(photo, JSON.stringify(file)));
        return { sha256: createHash("sha256").update(photo).digest("hex"), mxc: file?.url ?? url, encrypted: !!file };
    }

    async download({ mxc }) {
        const answer = await this.#fetch(mxc);
        const errcode = answer.ok ? null : (await answer.json()).errcode;
        return { status: answer.status, errcode };
    }

    #fetch(mxc) {
        const url = this.client.mxcUrlToHttp(mxc, undefined, undefined, undefined, false, true, true);
        return fetch(url, { headers: { Authorization: `Bearer ${this.client.getAccessToken()}` } });
    }

    // Emoji verification

    async verify_start({ user_id, device_id }) {
        await until(async () => (await this.#devices(user_id)).includes(device_id), "the other device");
        this.request = await this.client.getCrypto().requestDeviceVerification(user_id, device_id);
        return {};
    }

    async verify_accept({ user_id }) {
        this.request = await until(() => this.requests.find((r) => r.otherUserId === user_id && r.pending), "the verification request");
        await this.request.accept();
        return {};
    }

    async verify_emoji() {
        const { request } = this;
        const ours = request.initiatedByMe;
        await until(() => request.phase >= (ours ? VerificationPhase.Ready : VerificationPhase.Started), "the other side's answer");
        const verifier = ours ? await request.startVerification("m.sas.v1") : request.verifier;
        this.verified = verifier.verify();
        this.verified.catch(() => {});
        const shown = new Promise((resolve) => verifier.once(VerifierEvent.ShowSas, resolve));
        this.sas = verifier.getShowSasCallbacks() ?? (await Promise.race([shown, this.verified.then(() => fail("verified without emoji"))]));
        return { emoji: this.sas.sas.emoji.map(([symbol]) => symbol) };
    }

    async verify_confirm() {
        await this.sas.confirm();
        await this.verified;
        await until(() => this.request.phase === VerificationPhase.Done, "the end of the verification");
        return {};
    }

    async trust({ user_id, device_id }) {
        await until(async () => (await this.#devices(user_id)).includes(device_id), "the other device");
        const status = await this.client.getCrypto().getDeviceVerificationStatus(user_id, device_id);
        return { verified: status.isVerified(), cross_signed: status.signedByOwner };
    }

    // Cross-signing and key backup

    async bootstrap_cross_signing() {
        const auth = { type: "m.login.password", identifier: { type: "m.id.user", user: this.client.getUserId() }, password: this.password };
        await this.client.getCrypto().bootstrapCrossSigning({
            // Without authentication first: the first upload must not need it.
            authUploadDeviceSigningKeys: (upload) => upload(null).catch((e) => (e.data?.session ? upload({ ...auth, session: e.data.session }) : Promise.reject(e))),
        });
        return {};
    }

    async enable_backup() {
        const crypto = this.client.getCrypto();
        const created = await crypto.createRecoveryKeyFromPassphrase();
        this.recoveryKey = created.privateKey;
        await crypto.bootstrapSecretStorage({ createSecretStorageKey: async () => created, setupNewSecretStorage: true, setupNewKeyBackup: true });
        await until(() => this.keysToBackUp === 0, "the upload of all room keys");
        return { recovery_key: created.encodedPrivateKey };
    }

    async restore_backup({ recovery_key }) {
        const crypto = this.client.getCrypto();
        this.recoveryKey = decodeRecoveryKey(recovery_key);
        // As Element Web: learn the own public keys, fetch the private ones from secret storage, and
        // sign this device with them.
        await crypto.userHasCrossSigningKeys(this.client.getUserId(), true);
        await crypto.bootstrapCrossSigning({});
        await crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await crypto.checkKeyBackupAndEnable();
        const { imported } = await crypto.restoreKeyBackup();
        return { imported };
    }

    async read_history({ room_id, event_id }) {
        const mapper = this.client.getEventMapper();
        const event = mapper(await this.client.fetchRoomEvent(room_id, event_id));
        await this.client.decryptEventIfNeeded(event);
        if (event.isDecryptionFailure()) fail(`cannot decrypt: ${event.decryptionFailureReason}`);
        return { body: event.getContent().body };
    }

    async #devices(userId) {
        const devices = await this.client.getCrypto().getUserDeviceInfo([userId], true);
        return [...(devices.get(userId)?.keys() ?? [])];
    }

    async #event(roomId, wanted, what) {
        const room = await until(() => this.client.getRoom(roomId), "the room");
        return until(() => room.getLiveTimeline().getEvents().find((e) => !e.isBeingDecrypted() && !e.isDecryptionFailure() && wanted(e)), what);
    }
}

function fail(why) {
    throw new Error(why);
}

async function until(condition, what) {
    const deadline = performance.now() + WAIT_MS;
    for (;;) {
        const found = await condition();
        if (found) return found;
        if (performance.now() > deadline) fail(`waited ${WAIT_MS / 1000} s for ${what}`);
        await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
    }
}

const driver = new Driver();
for await (const line of createInterface({ input: process.stdin })) {
    const { do: name, ...given } = JSON.parse(line);
    let answer;
    try {
        answer = { ok: await driver[name](given) };
    } catch (error) {
        console.error(error);
        answer = { error: `${name}: ${error}` };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0);
