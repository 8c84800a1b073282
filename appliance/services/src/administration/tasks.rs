//! What administrators order that takes long. An order is a row; a job carries it out, and takes it up
//! again after a restart: each can be done twice without harm.

use appliance_ledger::Direction;
use appliance_ledger::keyspaces::TASKS;
use appliance_ledger::rows::extras::TaskRow;
pub use appliance_ledger::rows::extras::TaskState;
use appliance_model::ruma::{OwnedRoomId, OwnedUserId};
use appliance_model::{Caller, Error};
use appliance_rules::Permit;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
}

impl Task {
    fn kind(&self) -> &'static str {
        match self {
            Self::CloseRoom(..) => "room.delete",
            Self::Redact { .. } => "user.redact",
            Self::PurgeHistory(..) => "history.purge",
        }
    }

    fn object(&self) -> String {
        match self {
            Self::CloseRoom(room_id, _) | Self::PurgeHistory(room_id, _) => room_id.to_string(),
            Self::Redact { user_id, .. } => user_id.to_string(),
        }
    }
}

impl Administration {
    /// Orders something; returns the ID under which its state is asked for.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn order(&self, by: &Caller, task: &Task) -> Result<String, Error> {
        let ledger = &self.house.ledger;
        let task_id = self.house.dice.letters(TASK_ID_LENGTH);
        let row = TaskRow {
            task_id: task_id.clone(),
            kind: task.kind().to_owned(),
            object: task.object(),
            params: serde_json::to_string(task).map_err(Error::internal)?,
            by: by.user_id.to_string(),
            at_ms: self.house.clock.now_ms(),
            state: TaskState::Active,
            result: None,
            error: None,
            ended_ms: None,
        };
        let permit = Permit::administration("task.ordered", &by.user_id, task.object());
        let mut commit = ledger.begin(permit);
        commit.put(&TASKS, &ledger.next_number(), &row);
        let all = self.task_rows().await?;
        let surplus = (all.len() + 1).saturating_sub(KEPT_MAX);
        let done = all.iter().filter(|(_, row)| row.state != TaskState::Active);
        for (number, _) in done.take(surplus) {
            commit.delete(&TASKS, number);
        }
        ledger.commit(commit).await?;
        Ok(task_id)
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

    /// Carries out what is ordered; a reconciler, to be called every second. Returns how many orders
    /// ended.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on where it stopped.
    pub async fn carry_out(&self) -> Result<usize, Error> {
        let ledger = &self.house.ledger;
        if !self.orders_rest.is_due(ledger, self.house.clock.now_ms()) {
            return Ok(0);
        }
        let at = ledger.position();
        let mut orders = self.task_rows().await?;
        orders.retain(|(_, row)| row.state == TaskState::Active);
        if orders.is_empty() {
            self.orders_rest.until(at, None);
        }
        let mut ended = 0;
        for (number, mut row) in orders {
            match self.carry_out_one(&row).await {
                Ok(result) => {
                    row.state = TaskState::Complete;
                    row.result = Some(result.to_string());
                }
                Err(error) => {
                    row.state = TaskState::Failed;
                    row.error = Some(error.message.into_owned());
                }
            }
            row.ended_ms = Some(self.house.clock.now_ms());
            let mut commit = self.house.ledger.begin(Permit::housekeeping());
            commit.put(&TASKS, &number, &row);
            self.house.ledger.commit(commit).await?;
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
        }
    }
}
