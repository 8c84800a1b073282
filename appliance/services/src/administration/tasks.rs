//! What administrators order that takes long. An order is a row; a job carries it out, and takes it up
//! again after a restart: each can be done twice without harm.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::TASKS;
use appliance_ledger::rows::extras::TaskRow;
pub use appliance_ledger::rows::extras::TaskState;
use appliance_model::ruma::{OwnedRoomId, OwnedUserId};
use appliance_model::{Caller, Error, Kind};
use appliance_rules::Permit;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::parting::Parting;
use super::{Administration, Closing};

/// Orders remembered; the oldest that are done are forgotten.
const KEPT_MAX: usize = 500;
const TASK_ID_LENGTH: usize = 16;
/// "limit … default 1000".
const REDACTIONS_DEFAULT: usize = 1_000;
const REDACTIONS_MAX: usize = 100_000;

/// What is ordered.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum Task {
    /// Close a room.
    CloseRoom(OwnedRoomId, Closing),
    /// Take back what somebody said, in some rooms or in all of theirs.
    Redact {
        /// Whose.
        user_id: OwnedUserId,
        /// Where; empty is everywhere.
        rooms: Vec<OwnedRoomId>,
        /// Why.
        reason: Option<String>,
        /// How many events of each room.
        limit: Option<usize>,
    },
    /// Take out of a room what was said up to a time: milliseconds since the Unix epoch.
    PurgeHistory(OwnedRoomId, u64),
    /// Part with a peer.
    Part(Parting),
}

impl Task {
    fn kind(&self) -> &'static str {
        match self {
            Self::CloseRoom(..) => "room.delete",
            Self::Redact { .. } => "user.redact",
            Self::PurgeHistory(..) => "history.purge",
            Self::Part(_) => "peer.part",
        }
    }

    fn object(&self) -> String {
        match self {
            Self::CloseRoom(room_id, _) | Self::PurgeHistory(room_id, _) => room_id.to_string(),
            Self::Redact { user_id, .. } => user_id.to_string(),
            Self::Part(parting) => parting.server_name.to_string(),
        }
    }
}

/// What is known of orders without asking the store.
pub(super) struct Orders {
    /// There may be some to carry out: after a start there may be.
    waiting: AtomicBool,
    /// Orders that whoever gave them carries out, and waits for.
    taken_on: Mutex<BTreeSet<u64>>,
}

impl Default for Orders {
    fn default() -> Self {
        Self { waiting: AtomicBool::new(true), taken_on: Mutex::default() }
    }
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.taken_on.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        self.waiting.store(true, Ordering::SeqCst);
    }
}

/// An order that is carried out where it was given. Let go before its end, it is the job's to bring to an
/// end: whoever waited has hung up.
pub(super) struct TakenOn<'a> {
    orders: &'a Orders,
    number: u64,
    row: TaskRow,
}

impl Drop for TakenOn<'_> {
    fn drop(&mut self) {
        self.orders.lock().remove(&self.number);
        self.orders.wait();
    }
}

impl Administration {
    /// Orders something; returns the ID under which its state is asked for.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn order(&self, by: &Caller, task: &Task) -> Result<String, Error> {
        let (number, row) = self.order_row(by.user_id.as_str(), task)?;
        self.write_order(number, &row).await?;
        self.orders.wait();
        Ok(row.task_id)
    }

    /// Orders something that is carried out at once by whoever calls this: it is in the store before
    /// anything is done, so that a power cut in the middle does not end it half done.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn take_on(&self, by: &str, task: &Task) -> Result<TakenOn<'_>, Error> {
        let (number, row) = self.order_row(by, task)?;
        // The job must not see it first.
        self.orders.lock().insert(number);
        let taken_on = TakenOn { orders: &self.orders, number, row };
        self.write_order(number, &taken_on.row).await?;
        Ok(taken_on)
    }

    /// Writes down how an order that was taken on ended. One that the disk did not take is left to the job.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn ended(
        &self,
        mut order: TakenOn<'_>,
        outcome: Result<Value, &Error>,
    ) -> Result<(), Error> {
        if outcome.as_ref().is_err_and(|error| error.kind == Kind::Unavailable) {
            return Ok(());
        }
        let (number, row) = (order.number, &mut order.row);
        self.write_end(number, row, outcome.map_err(|error| error.message.to_string())).await
    }

    fn order_row(&self, by: &str, task: &Task) -> Result<(u64, TaskRow), Error> {
        let row = TaskRow {
            task_id: self.house.dice.letters(TASK_ID_LENGTH),
            kind: task.kind().to_owned(),
            object: task.object(),
            params: serde_json::to_string(task).map_err(Error::internal)?,
            by: by.to_owned(),
            at_ms: self.house.clock.now_ms(),
            state: TaskState::Active,
            result: None,
            error: None,
            ended_ms: None,
        };
        Ok((self.house.ledger.next_number(), row))
    }

    async fn write_order(&self, number: u64, row: &TaskRow) -> Result<(), Error> {
        let ledger = &self.house.ledger;
        let permit = Permit::administration("task.ordered", &row.by, &row.object);
        let mut commit = ledger.begin(permit);
        commit.put(&TASKS, &number, row);
        let all = self.task_rows().await?;
        let surplus = (all.len() + 1).saturating_sub(KEPT_MAX);
        let done = all.iter().filter(|(_, row)| row.state != TaskState::Active);
        for (number, _) in done.take(surplus) {
            commit.delete(&TASKS, number);
        }
        ledger.commit(commit).await.map(drop)
    }

    async fn write_end(
        &self,
        number: u64,
        row: &mut TaskRow,
        outcome: Result<Value, String>,
    ) -> Result<(), Error> {
        match outcome {
            Ok(result) => {
                row.state = TaskState::Complete;
                row.result = Some(result.to_string());
            }
            Err(why) => {
                row.state = TaskState::Failed;
                row.error = Some(why);
            }
        }
        row.ended_ms = Some(self.house.clock.now_ms());
        let mut commit = self.house.ledger.begin(Permit::housekeeping());
        commit.put(&TASKS, &number, row);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// The orders of a kind, oldest first.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn tasks(&self) -> Result<Vec<TaskRow>, Error> {
        Ok(self.task_rows().await?.into_iter().map(|(_, row)| row).collect())
    }

    async fn task_rows(&self) -> Result<Vec<(u64, TaskRow)>, Error> {
        let view = self.house.ledger.newest();
        Ok(view.scan(&TASKS, &(), Direction::Forward, 2 * KEPT_MAX).await?.0)
    }

    /// Carries out what is ordered; a reconciler, to be called every second. Asks the store only after a
    /// start and when something was ordered. Returns how many orders ended.
    ///
    /// # Errors
    ///
    /// If the store fails, or takes nothing now; calling again goes on where it stopped.
    pub async fn carry_out(&self) -> Result<usize, Error> {
        if !self.orders.waiting.swap(false, Ordering::SeqCst) {
            return Ok(0);
        }
        let ended = self.carry_out_all().await;
        if ended.is_err() {
            self.orders.wait();
        }
        ended
    }

    async fn carry_out_all(&self) -> Result<usize, Error> {
        let mut ended = 0;
        for (number, mut row) in self.task_rows().await? {
            if row.state != TaskState::Active || self.orders.lock().contains(&number) {
                continue;
            }
            let outcome = match self.carry_out_one(&row).await {
                Err(error) if error.kind == Kind::Unavailable => return Err(error),
                outcome => outcome.map_err(|error| error.message.into_owned()),
            };
            self.write_end(number, &mut row, outcome).await?;
            ended += 1;
        }
        Ok(ended)
    }

    async fn carry_out_one(&self, row: &TaskRow) -> Result<Value, Error> {
        let task: Task = serde_json::from_str(&row.params).map_err(Error::internal)?;
        match task {
            Task::CloseRoom(room_id, how) => {
                let by = OwnedUserId::try_from(row.by.as_str()).map_err(Error::internal)?;
                let by = self.stand_in(&by).await?;
                let closed = self.close_room(&by, &room_id, &how).await?;
                serde_json::to_value(closed).map_err(Error::internal)
            }
            Task::PurgeHistory(room_id, upto_ms) => {
                let events = self.purge_history(&row.by, &room_id, upto_ms).await?;
                Ok(serde_json::json!({ "events": events }))
            }
            Task::Redact { user_id, rooms, reason, limit } => {
                let author = self.stand_in(&user_id).await?;
                let rooms = match rooms.is_empty() {
                    true => self.rooms.joined_rooms(&author).await?,
                    false => rooms,
                };
                let limit = limit.unwrap_or(REDACTIONS_DEFAULT).min(REDACTIONS_MAX);
                let mut failed = Map::new();
                for room_id in rooms {
                    let how = (reason.as_deref(), limit);
                    for (event_id, why) in self.rooms.redact_all_of(&author, &room_id, how).await? {
                        failed.insert(event_id, why.into());
                    }
                }
                Ok(Value::Object(failed))
            }
            Task::Part(parting) => {
                let parted = self.part(&parting, &row.by).await?;
                tracing::warn!(kind = "peers.parted", server = %parting.server_name, by = row.by,
                    "parting with a peer had been interrupted, and is brought to its end");
                Ok(parted.in_json())
            }
        }
    }
}
