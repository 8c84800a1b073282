//! One hospital: its disk, its clock, its people, and a power switch.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use appliance_engine::Memory;
use appliance_ledger::keyspaces::DEVICES;
use appliance_ledger::{Blobs, Openers, SecretKey};
use appliance_model::ruma::signatures::Ed25519KeyPair;
use appliance_model::ruma::{
    MilliSecondsSinceUnixEpoch, OwnedServerName, RoomVersionId, ServerName, UInt,
};
use appliance_model::scenario::SeededDice;
use appliance_model::{Caller, Clock, DeviceNid, Dice as _, Role};
use appliance_services::accounts::{NewAccount, NewSession};
use appliance_services::egress::NoWayOut;
use appliance_services::peers::{Outbox, Roll};
use appliance_services::sync::Waiters;
use appliance_services::{House, Options, Registration, Services};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::wire::{End, Wire};

/// A morning in November 2023, in milliseconds since the Unix epoch.
const BEGIN_MS: i64 = 1_700_000_000_000;

/// A clock that goes with the runtime's time, and is wrong by so much.
pub struct SkewedClock {
    began: tokio::time::Instant,
    skew_ms: AtomicI64,
}

impl SkewedClock {
    #[expect(clippy::disallowed_methods, reason = "this is the simulation's own time")]
    fn new() -> Self {
        Self { began: tokio::time::Instant::now(), skew_ms: AtomicI64::new(0) }
    }

    /// Sets it wrong, as administrators do.
    pub fn set_skew_ms(&self, ms: i64) {
        self.skew_ms.store(ms, Ordering::SeqCst);
    }
}

impl Clock for SkewedClock {
    #[expect(clippy::disallowed_methods, reason = "this is the simulation's own time")]
    fn now(&self) -> MilliSecondsSinceUnixEpoch {
        let passed = tokio::time::Instant::now().duration_since(self.began).as_millis();
        let now_ms = BEGIN_MS + i64::try_from(passed).unwrap();
        let now_ms = now_ms + self.skew_ms.load(Ordering::SeqCst);
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(now_ms.unsigned_abs()))
    }
}

/// Nobody takes photos in these nights: all hospitals of a thread have the same empty shelves.
fn no_files() -> Blobs {
    thread_local! {
        static SHELVES: (TempDir, Blobs) = {
            let (folder, dice) = (tempfile::tempdir().unwrap(), Arc::new(SeededDice::new(0)));
            let master = SecretKey::random(&*dice);
            let blobs = Blobs::open(folder.path(), &master, dice).unwrap();
            (folder, blobs)
        };
    }
    SHELVES.with(|(_, blobs)| blobs.clone())
}

/// What a hospital keeps when its power goes, and what it is at work with while it has some.
pub struct Hospital {
    pub name: OwnedServerName,
    pub clock: Arc<SkewedClock>,
    pub people: Vec<Caller>,
    /// None while the power is off.
    pub services: Option<Arc<Services>>,
    /// Says when the power goes.
    pub power: watch::Receiver<bool>,
    switch: watch::Sender<bool>,
    engine: Arc<Memory>,
    dice: Arc<SeededDice>,
    master: SecretKey,
    signing: Vec<u8>,
    peers: Vec<OwnedServerName>,
    terms: Terms,
    commit_delay: Duration,
    wire: Arc<Wire>,
    /// The lane and the outbox.
    running: JoinSet<()>,
}

/// What all operators of a night agree on.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The version of their rooms.
    pub version: RoomVersionId,
    /// Whether rooms say which servers may take part.
    pub access_lists: bool,
}

/// A PKCS #8 document (RFC 8410) of these 32 bytes: keys come from the seed as all else does.
fn signing_document(secret: &[u8; 32]) -> Vec<u8> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    [&HEAD[..], secret].concat()
}

impl Hospital {
    /// A hospital whose list these are, and so many people.
    pub async fn found(
        name: &str,
        (seed, terms): (u64, Terms),
        peers: Vec<OwnedServerName>,
        people: usize,
        wire: &Arc<Wire>,
    ) -> Self {
        let dice = Arc::new(SeededDice::new(seed));
        let mut secret = [0; 32];
        dice.fill(&mut secret);
        let (switch, power) = watch::channel(true);
        let mut hospital = Self {
            name: ServerName::parse(name).unwrap(),
            clock: Arc::new(SkewedClock::new()),
            people: Vec::new(),
            services: None,
            power,
            switch,
            engine: Arc::new(Memory::new()),
            master: SecretKey::random(&*dice),
            commit_delay: Duration::from_millis(dice.number() % 12),
            dice,
            signing: signing_document(&secret),
            peers,
            terms,
            wire: wire.clone(),
            running: JoinSet::new(),
        };
        hospital.power_on().await;
        for number in 0..people {
            let person = hospital.hire(&format!("p{number}")).await;
            hospital.people.push(person);
        }
        hospital
    }

    pub fn is_on(&self) -> bool {
        self.services.is_some()
    }

    /// Somebody with an account and a device.
    async fn hire(&self, name: &str) -> Caller {
        let services = self.services.as_ref().unwrap();
        let new = NewAccount { localpart: Some(name.to_owned()), ..NewAccount::default() };
        let made = services.accounts.create_account(new, Some(NewSession::default())).await;
        let (user_id, session) = made.unwrap();
        let ledger = &services.house.ledger;
        let user = ledger.user(&user_id).await.unwrap().unwrap();
        let device_id = session.unwrap().device_id;
        let device = ledger.get(&DEVICES, &(user, device_id.to_string())).await.unwrap().unwrap();
        let device = DeviceNid(device.device);
        let class = services.accounts.class_of(device).await.unwrap();
        Caller { user_id, user, device_id, device, role: Role::User, appservice: None, class }
    }

    /// The power goes. Of what was on its way to the disk, the first `kept` commits arrived.
    pub fn power_off(&mut self, kept: usize) {
        self.wire.close(&self.name);
        let _ = self.switch.send(false);
        self.engine = Arc::new(self.engine.power_cut_keeping(kept));
        self.running = JoinSet::new();
        self.services = None;
    }

    /// The power comes back.
    pub async fn power_on(&mut self) {
        let waiters = Arc::new(Waiters::default());
        let name = self.name.to_string();
        let openers = Openers {
            server_name: &name,
            master_key: &self.master,
            clock: self.clock.clone(),
            dice: self.dice.clone(),
            observer: waiters.clone(),
            folder: None,
        };
        self.engine.delay_commits(Duration::ZERO);
        let (ledger, lane) = appliance_ledger::open(self.engine.clone(), openers).await.unwrap();
        self.engine.delay_commits(self.commit_delay);
        let house = Arc::new(House {
            ledger,
            blobs: no_files(),
            clock: self.clock.clone(),
            dice: self.dice.clone(),
            roll: Arc::new(Roll::of(self.peers.iter().cloned())),
            egress: Arc::new(NoWayOut),
            remote: Arc::new(End { own: self.name.clone(), wire: self.wire.clone() }),
            outbox: Outbox::default(),
            server_name: self.name.clone(),
            signing_key: Ed25519KeyPair::from_der(&self.signing, "sim".to_owned()).unwrap(),
            options: Options {
                registration: Registration::Open,
                cheap_password_hash: true,
                rate_limits: None,
                default_room_version: self.terms.version.clone(),
                access_lists: self.terms.access_lists,
                ..Options::default()
            },
            appservices: Arc::default(),
            policy: Arc::default(),
        });
        let services = Arc::new(Services::new(house, waiters));
        let (switch, power) = watch::channel(true);
        (self.switch, self.power) = (switch, power);
        self.running.spawn(async move {
            // A lane that stops at a power cut is part of the night.
            let _ = lane.run().await;
        });
        self.running.spawn(appliance_federation::outbox::run(services.clone()));
        let (router, _) = appliance_api::peer_router(services.clone());
        self.wire.open(&self.name, router, self.power.clone());
        self.services = Some(services);
    }
}
