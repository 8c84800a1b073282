//! A store on the memory engine, for tests: it can lose its power.

use std::sync::Arc;

use appliance_engine::Memory;
use appliance_model::OsDice;
use appliance_model::scenario::StillClock;
use tokio::task::JoinSet;

use crate::{Ledger, NobodyListens, Openers, SecretKey, open};

pub(crate) struct Store {
    pub ledger: Ledger,
    pub engine: Arc<Memory>,
    pub master: SecretKey,
    /// The lane lives as long as the store.
    pub lane: JoinSet<Result<(), crate::LaneStopped>>,
}

impl Store {
    pub async fn new() -> Self {
        Self::on(Arc::new(Memory::new()), SecretKey::random(&OsDice)).await
    }

    pub async fn on(engine: Arc<Memory>, master: SecretKey) -> Self {
        let openers = openers(&master);
        let (ledger, lane) = open(engine.clone(), openers).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(lane.run());
        Self { ledger, engine, master, lane: tasks }
    }

    pub async fn power_cut_and_restart(self) -> Self {
        let engine = Arc::new(self.engine.power_cut());
        Self::on(engine, self.master).await
    }
}

pub(crate) fn openers(master: &SecretKey) -> Openers<'_> {
    Openers {
        server_name: "hospital.example",
        master_key: master,
        clock: Arc::new(StillClock::at_ms(1_000_000)),
        dice: Arc::new(OsDice),
        observer: Arc::new(NobodyListens),
        folder: None,
    }
}
