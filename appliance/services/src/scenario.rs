//! A ward to play scenes in: services on the memory engine, a clock that stands still until moved,
//! seeded dice, and a power switch.

#![cfg(test)]

use std::path::Path;
use std::sync::Arc;

use appliance_engine::{EngineError, Memory};
use appliance_ledger::keyspaces::{ACCOUNTS, AUDIT, DEVICES};
use appliance_ledger::rows::{AuditFact, TimelineRow};
use appliance_ledger::{Blobs, Direction, Event, Openers, SecretKey};
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::room::create_room;
use appliance_model::ruma::api::client::state::send_state_event;
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_model::ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, UserId,
};
use appliance_model::scenario::{SeededDice, StillClock};
use appliance_model::{Caller, DeviceNid, Dice as _, Error, Role, RoomNid};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::accounts::{NewAccount, NewSession};
use crate::egress::{Egress, NoWayOut};
use crate::peers::{NoRemote, Outbox, Remote, Roll};
use crate::rooms::Removal;
use crate::sync::Waiters;
use crate::{House, Options, Registration, Services};

/// The server's name in every scene.
pub const SERVER: &str = "hospital.example";

/// A house with people in it.
pub struct Ward {
    /// What is tried.
    pub services: Arc<Services>,
    /// Its time.
    pub clock: Arc<StillClock>,
    /// Its data folder: files are there, the store is in memory.
    pub folder: Arc<tempfile::TempDir>,
    /// Its disk, with a switch for everything that can go wrong.
    pub engine: Arc<Memory>,
    keys: Keys,
    /// The lane lives as long as the ward.
    _lane: JoinSet<()>,
}

/// The time that the clock shows when the power is back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    AtOnce,
    /// The machine was off for a month, or the clock is wrong.
    Later,
    /// Two days before: the clock has no battery.
    Earlier,
}

impl Back {
    pub const ALL: [Self; 3] = [Self::AtOnce, Self::Later, Self::Earlier];
}

const DAY_MS: u64 = 86_400_000;

/// For [`Memory::fail_commit_after`]: nothing is committed any more.
pub fn the_power_goes() -> EngineError {
    EngineError::Failed("the power is going".to_owned())
}

#[derive(Clone)]
struct Keys {
    dice: Arc<SeededDice>,
    master: SecretKey,
    /// A PKCS#8 document.
    signing: Vec<u8>,
    options: Options,
    egress: Arc<dyn Egress>,
    roll: Arc<Roll>,
    remote: Arc<dyn Remote>,
    server: String,
}

/// What the operator of most scenes chose.
pub fn options() -> Options {
    Options {
        registration: Registration::Open,
        cheap_password_hash: true,
        presence: true,
        rate_limits: None,
        ..Options::default()
    }
}

impl Ward {
    /// An empty ward whose rooms have the version this server creates by default.
    pub async fn new() -> Self {
        Self::of_version(RoomVersionId::V11).await
    }

    /// An empty ward with another default room version.
    pub async fn of_version(room_version: RoomVersionId) -> Self {
        Self::with_options(Options { default_room_version: room_version, ..options() }).await
    }

    /// An empty ward with other servers to talk with.
    pub async fn with_peers(roll: Roll, remote: Arc<dyn Remote>) -> Self {
        Self::with(SERVER, (options(), 1), Arc::new(NoWayOut), roll, remote).await
    }

    /// An empty ward of an operator who chose otherwise.
    pub async fn with_options(options: Options) -> Self {
        Self::with(SERVER, (options, 1), Arc::new(NoWayOut), Roll::default(), Arc::new(NoRemote))
            .await
    }

    /// Both.
    pub async fn with_options_and_egress(options: Options, egress: Arc<dyn Egress>) -> Self {
        Self::with(SERVER, (options, 1), egress, Roll::default(), Arc::new(NoRemote)).await
    }

    /// An empty ward whose words to others go this way.
    pub async fn with_egress(egress: Arc<dyn Egress>) -> Self {
        Self::with(SERVER, (options(), 1), egress, Roll::default(), Arc::new(NoRemote)).await
    }

    /// An empty ward of a server of that name; `seed` is what its dice fall by.
    pub async fn of_server(server: &str, options: Options, seed: u64) -> Self {
        let (roll, remote) = (Roll::default(), Arc::new(NoRemote));
        Self::with(server, (options, seed), Arc::new(NoWayOut), roll, remote).await
    }

    async fn with(
        server: &str,
        (options, seed): (Options, u64),
        egress: Arc<dyn Egress>,
        roll: Roll,
        remote: Arc<dyn Remote>,
    ) -> Self {
        let dice = Arc::new(SeededDice::new(seed));
        let keys = Keys {
            master: SecretKey::random(&*dice),
            dice,
            signing: Ed25519KeyPair::generate().to_vec(),
            options,
            egress,
            roll: Arc::new(roll),
            remote,
            server: server.to_owned(),
        };
        let clock = Arc::new(StillClock::at_ms(1_700_000_000_000));
        let folder = Arc::new(tempfile::tempdir().unwrap());
        Self::open(Arc::new(Memory::new()), clock, folder, keys).await
    }

    /// A ward with these people, by local part.
    pub async fn with_members<const N: usize>(names: [&str; N]) -> (Self, [Caller; N]) {
        let ward = Self::new().await;
        let callers = ward.members(names).await;
        (ward, callers)
    }

    /// Makes accounts for these people.
    pub async fn members<const N: usize>(&self, names: [&str; N]) -> [Caller; N] {
        let mut callers = Vec::with_capacity(N);
        for name in names {
            callers.push(self.member(name).await);
        }
        callers.try_into().unwrap()
    }

    /// Makes an account without a password and signs it in on one device.
    pub async fn member(&self, name: &str) -> Caller {
        self.signed_in(name).await.0
    }

    /// The same with the access token, for what looks at it again after a while.
    pub async fn signed_in(&self, name: &str) -> (Caller, String) {
        let new = NewAccount { localpart: Some(name.to_owned()), ..NewAccount::default() };
        let session = NewSession::default();
        let made = self.services.accounts.create_account(new, Some(session)).await;
        let (user_id, session) = made.unwrap();
        let ledger = &self.services.house.ledger;
        let user = ledger.user(&user_id).await.unwrap().unwrap();
        let session = session.unwrap();
        let (device_id, token) = (session.device_id, session.access_token);
        let device = ledger.get(&DEVICES, &(user, device_id.to_string())).await.unwrap().unwrap();
        assert!(ledger.get(&ACCOUNTS, &user).await.unwrap().is_some());
        let device = DeviceNid(device.device);
        let class = self.services.accounts.class_of(device).await.unwrap();
        let role = Role::User;
        let caller = Caller { user_id, user, device_id, device, role, appservice: None, class };
        (caller, token)
    }

    async fn open(
        engine: Arc<Memory>,
        clock: Arc<StillClock>,
        folder: Arc<tempfile::TempDir>,
        keys: Keys,
    ) -> Self {
        let waiters = Arc::new(Waiters::default());
        let openers = Openers {
            server_name: &keys.server,
            master_key: &keys.master,
            clock: clock.clone(),
            dice: keys.dice.clone(),
            observer: waiters.clone(),
            folder: None,
        };
        let (ledger, lane) = appliance_ledger::open(engine.clone(), openers).await.unwrap();
        let mut running = JoinSet::new();
        running.spawn(async move {
            // A lane that stops at a power cut is part of the scene.
            let _ = lane.run().await;
        });
        let house = Arc::new(House {
            ledger,
            blobs: Blobs::open(folder.path(), &keys.master, keys.dice.clone()).unwrap(),
            clock: clock.clone(),
            dice: keys.dice.clone(),
            roll: keys.roll.clone(),
            egress: keys.egress.clone(),
            remote: keys.remote.clone(),
            outbox: Outbox::default(),
            server_name: OwnedServerName::try_from(keys.server.as_str()).unwrap(),
            signing_key: Ed25519KeyPair::from_der(&keys.signing, "a_1".to_owned()).unwrap(),
            appservices: Arc::default(),
            policy: Arc::default(),
            options: keys.options.clone(),
        });
        let services = Arc::new(Services::new(house, waiters));
        Self { services, clock, folder, engine, keys, _lane: running }
    }

    /// The power goes and comes back. What was answered is still there.
    pub async fn power_cut_and_restart(self) -> Self {
        let engine = Arc::new(self.engine.power_cut());
        Self::open(engine, self.clock, self.folder, self.keys).await
    }

    /// The same, when so many of the batches that were not synced reached the disk anyway.
    pub async fn power_cut_keeping_and_restart(self, batches: usize) -> Self {
        let engine = Arc::new(self.engine.power_cut_keeping(batches));
        Self::open(engine, self.clock, self.folder, self.keys).await
    }

    /// The same, with somebody else outside.
    pub async fn power_cut_and_restart_with(mut self, egress: Arc<dyn Egress>) -> Self {
        self.keys.egress = egress;
        self.power_cut_and_restart().await
    }

    /// The power goes, so many of the batches that were in doubt have reached the disk, and it comes back at
    /// that time.
    pub async fn power_cut_until(self, back: Back, batches: usize) -> Self {
        if back == Back::Earlier {
            self.clock.go_back_ms(2 * DAY_MS);
        }
        let ward = self.power_cut_keeping_and_restart(batches).await;
        if back == Back::Later {
            ward.clock.pass_ms(30 * DAY_MS);
        }
        ward
    }

    /// Starts on a copy that was made of the store.
    pub async fn restored_from(self, copy: &Path) -> Self {
        let engine = Arc::new(Memory::load(copy).unwrap());
        Self::open(engine, self.clock, self.folder, self.keys).await
    }

    /// The engine, to turn its knobs.
    pub fn engine(&self) -> &Memory {
        &self.engine
    }

    /// A private room of the version this ward creates.
    pub async fn room(&self, creator: &Caller) -> OwnedRoomId {
        self.room_as(creator, json!({})).await
    }

    /// A room as this body of `/createRoom` asks.
    pub async fn room_as(&self, creator: &Caller, body: Value) -> OwnedRoomId {
        let request = create_request(body);
        self.services.rooms.create_room(creator, &request).await.unwrap()
    }

    /// A room with these people joined, the first as its creator.
    pub async fn room_of(&self, people: &[&Caller]) -> OwnedRoomId {
        let room_id = self.room(people[0]).await;
        for person in &people[1..] {
            self.set(people[0], &room_id, &person.user_id, MembershipState::Invite).await;
            self.set(person, &room_id, &person.user_id, MembershipState::Join).await;
        }
        room_id
    }

    /// Changes a membership, which must succeed.
    pub async fn set(&self, by: &Caller, room: &RoomId, target: &UserId, to: MembershipState) {
        self.try_set(by, room, target, to).await.unwrap();
    }

    /// Changes a membership through the endpoint that is made for it.
    pub async fn try_set(
        &self,
        by: &Caller,
        room: &RoomId,
        target: &UserId,
        to: MembershipState,
    ) -> Result<(), Error> {
        let rooms = &self.services.rooms;
        let own = by.user_id == *target;
        match to {
            MembershipState::Invite => rooms.invite(by, room, target, None).await,
            MembershipState::Join => rooms.join(by, room, None).await,
            MembershipState::Knock => rooms.knock(by, room, None).await,
            MembershipState::Leave if own => rooms.leave(by, room, None).await,
            MembershipState::Leave => {
                let now = self.membership(room, target).await;
                let unban = now == Some(MembershipState::Ban);
                let removal = if unban { Removal::Unban } else { Removal::Kick };
                rooms.remove(by, room, (removal, target), None).await
            }
            _ => rooms.remove(by, room, (Removal::Ban, target), None).await,
        }
    }

    /// The content of current state.
    pub async fn current(&self, room: &RoomId, (kind, key): (&str, &str)) -> Value {
        let room = self.services.rooms.enter(room).await.unwrap();
        let event = room.state(&kind.into(), key).await.unwrap().unwrap();
        serde_json::from_str(event.content.get()).unwrap()
    }

    /// What a user is in a room now.
    pub async fn membership(&self, room: &RoomId, user: &UserId) -> Option<MembershipState> {
        let room = self.services.rooms.enter(room).await.unwrap();
        room.membership(user).await.unwrap()
    }

    /// Says `body`, which must succeed, under a transaction ID of its own.
    pub async fn say(&self, who: &Caller, room: &RoomId, body: &str) -> String {
        let txn_id = self.keys.dice.letters(12);
        let sent = self.services.rooms.send_event(who, &text(room, &txn_id, body)).await;
        sent.unwrap().to_string()
    }

    /// Sets state, which must succeed.
    pub async fn state(
        &self,
        who: &Caller,
        room: &RoomId,
        (kind, key): (&str, &str),
        content: Value,
    ) {
        let request = state(room, (kind, key), content);
        self.services.rooms.send_state(who, &request).await.unwrap();
    }

    /// A room's number and its whole timeline, oldest first.
    pub async fn timeline(&self, room: &RoomId) -> (RoomNid, Vec<(Arc<Event>, TimelineRow)>) {
        let ledger = &self.services.house.ledger;
        let room = ledger.room(room).await.unwrap().unwrap();
        let view = ledger.view().await.unwrap();
        let all = (i64::MIN, i64::MAX);
        let stretch = view.timeline(room, all, Direction::Forward, 10_000).await.unwrap();
        (room, stretch.events)
    }

    /// Who did what, by the audit trail, oldest first.
    pub async fn audit(&self) -> Vec<String> {
        self.trail(|fact| format!("{} {}", fact.verb, fact.who)).await
    }

    /// What was done to what, by the audit trail, oldest first.
    pub async fn audit_objects(&self) -> Vec<String> {
        self.trail(|fact| format!("{} {}", fact.verb, fact.object)).await
    }

    async fn trail(&self, line: impl Fn(AuditFact) -> String) -> Vec<String> {
        let view = self.services.house.ledger.view().await.unwrap();
        let (rows, _) = view.scan(&AUDIT, &(), Direction::Forward, 10_000).await.unwrap();
        rows.into_iter().flat_map(|(_, row)| row.facts).map(line).collect()
    }
}

/// `PUT /rooms/{roomId}/send/{eventType}/{txnId}` with this content.
pub fn event(
    room_id: &RoomId,
    (kind, txn_id): (&str, &str),
    content: Value,
) -> send_message_event::v3::Request {
    send_message_event::v3::Request::new_raw(
        room_id.to_owned(),
        txn_id.into(),
        kind.into(),
        Raw::from_json_string(content.to_string()).unwrap(),
    )
}

/// `PUT /rooms/{roomId}/send/m.room.message/{txnId}` with a text.
pub fn text(room_id: &RoomId, txn_id: &str, body: &str) -> send_message_event::v3::Request {
    let content = json!({ "msgtype": "m.text", "body": body });
    send_message_event::v3::Request::new_raw(
        room_id.to_owned(),
        txn_id.into(),
        "m.room.message".into(),
        Raw::from_json_string(content.to_string()).unwrap(),
    )
}

/// `PUT /rooms/{roomId}/state/{eventType}/{stateKey}` with this content.
pub fn state(
    room_id: &RoomId,
    (kind, key): (&str, &str),
    content: Value,
) -> send_state_event::v3::Request {
    send_state_event::v3::Request::new_raw(
        room_id.to_owned(),
        kind.into(),
        key.to_owned(),
        Raw::from_json_string(content.to_string()).unwrap(),
    )
}

/// Sets who may read a room's history.
pub async fn visibility(ward: &Ward, who: &Caller, room: &RoomId, value: &str) {
    let content = json!({ "history_visibility": value });
    ward.state(who, room, ("m.room.history_visibility", ""), content).await;
}

/// `POST /createRoom` with this body.
pub fn create_request(body: Value) -> create_room::v3::Request {
    use appliance_model::ruma::api::IncomingRequestExt;
    let body = body.to_string();
    let request = http::Request::post("/").body(body.as_bytes()).unwrap();
    create_room::v3::Request::try_from_http_request(request, &[] as &[&str]).unwrap()
}

/// The user ID of a local part on this server.
pub fn user_id(name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{SERVER}")).unwrap()
}
