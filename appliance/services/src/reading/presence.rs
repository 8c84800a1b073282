//! Who is online ([spec]). Kept in memory only, and off unless the operator turns it on: it costs
//! much and watches staff.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#presence

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use appliance_model::ruma::presence::PresenceState;
use appliance_model::ruma::{ServerName, UserId};
use appliance_model::{Caller, Error, UserNid};
use serde_json::{Value, json};

use super::Reading;

/// A client that does not sync any more goes offline after this; long polls last half as long.
const ONLINE_MS: u64 = 60_000;
/// A status is one line.
const STATUS_BYTES_MAX: usize = 1_024;

/// One counter for all that is told without being committed: typing and presence.
#[derive(Clone)]
pub(super) struct Serial(Arc<AtomicU64>);

impl Serial {
    /// Numbers of another run must not be taken for this one's.
    pub fn starting_at(serial: u64) -> Self {
        Self(Arc::new(AtomicU64::new(serial)))
    }

    pub fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Who is how.
pub(super) struct Everyone(Mutex<HashMap<UserNid, Present>>, Serial);

#[derive(Clone)]
struct Present {
    state: PresenceState,
    status: Option<String>,
    active_ms: u64,
    /// When any of the user's clients last synced as somebody who is online.
    online_ms: Option<u64>,
    changed: u64,
}

impl Present {
    fn nothing_yet(now_ms: u64) -> Self {
        let (state, status) = (PresenceState::Offline, None);
        Self { state, status, active_ms: now_ms, online_ms: None, changed: 0 }
    }
}

impl Everyone {
    pub fn new(serial: Serial) -> Self {
        Self(Mutex::default(), serial)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserNid, Present>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a client of the user has synced so of late.
    fn is_online(&self, user: UserNid, now_ms: u64) -> bool {
        let all = self.lock();
        let said_ms = all.get(&user).and_then(|present| present.online_ms);
        said_ms.is_some_and(|said_ms| said_ms + ONLINE_MS > now_ms)
    }

    fn note_synced_online(&self, user: UserNid, now_ms: u64) {
        let mut all = self.lock();
        all.entry(user).or_insert_with(|| Present::nothing_yet(now_ms)).online_ms = Some(now_ms);
    }

    /// Whether others see a difference.
    fn set(
        &self,
        user: UserNid,
        state: PresenceState,
        status: Option<Option<String>>,
        now_ms: u64,
    ) -> bool {
        let mut all = self.lock();
        let known = all.entry(user).or_insert_with(|| Present::nothing_yet(now_ms));
        let status = status.unwrap_or_else(|| known.status.clone());
        let changed = known.state != state || known.status != status;
        (known.state, known.status, known.active_ms) = (state, status, now_ms);
        if changed {
            known.changed = self.1.next();
        }
        changed
    }

    /// Whether the user was not known before.
    fn note_active(&self, user: UserNid, now_ms: u64) -> bool {
        let mut all = self.lock();
        let is_new = !all.contains_key(&user);
        let known = all.entry(user).or_insert_with(|| Present::nothing_yet(now_ms));
        known.active_ms = now_ms;
        if is_new {
            known.changed = self.1.next();
        }
        is_new
    }
}

impl Reading {
    /// What the caller says of themselves.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] for others, [`appliance_model::Kind::TooLarge`].
    pub fn set_presence(
        &self,
        caller: &Caller,
        user_id: &UserId,
        (state, status): (PresenceState, Option<String>),
    ) -> Result<(), Error> {
        if caller.user_id != user_id {
            return Err(Error::forbidden("You can only set your own presence."));
        }
        if status.as_ref().is_some_and(|status| status.len() > STATUS_BYTES_MAX) {
            return Err(Error::too_large("A status is at most 1024 bytes."));
        }
        if self.house.options.presence
            && self.everyone.set(caller.user, state, Some(status), self.house.clock.now_ms())
        {
            self.waiters.wake_sharing(caller.user);
        }
        Ok(())
    }

    /// Another server says how one of its users is.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn heard_presence(
        &self,
        origin: &ServerName,
        user_id: &UserId,
        (state, status): (PresenceState, Option<String>),
    ) -> Result<(), Error> {
        let is_short = status.as_ref().is_none_or(|status| status.len() <= STATUS_BYTES_MAX);
        if !self.house.options.presence || user_id.server_name() != origin || !is_short {
            return Ok(());
        }
        // Whoever is unknown shares no room with anyone here.
        let Some(user) = self.house.ledger.user(user_id).await? else { return Ok(()) };
        let now_ms = self.house.clock.now_ms();
        if self.everyone.set(user, state, Some(status), now_ms) {
            self.waiters.wake_sharing(user);
        }
        Ok(())
    }

    /// Tells other servers whose presence changed since this was last called. A job calls this.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn tell_presence(&self) -> Result<(), Error> {
        if !self.house.options.presence || self.house.roll.is_empty() {
            return Ok(());
        }
        let now = self.serial.now();
        let after = self.presence_told.swap(now, Ordering::SeqCst);
        for (user, mut content) in self.presence_changes(after) {
            let user_id = self.house.ledger.user_id(user).await?;
            if !self.house.is_ours(&user_id) {
                continue;
            }
            let servers = self.house.servers_with(user).await?;
            content["user_id"] = user_id.as_str().into();
            let news = json!({ "push": [content] });
            self.house.outbox.tell(&servers, &format!("presence {user_id}"), "m.presence", &news);
        }
        Ok(())
    }

    /// A sync says that its user is there. Of two clients the more present one counts: a phone in a
    /// pocket does not make its user idle who writes at the desk, and the two do not wake each other
    /// for ever.
    pub fn seen_syncing(&self, user: UserNid, state: PresenceState) {
        if !self.house.options.presence {
            return;
        }
        let now_ms = self.house.clock.now_ms();
        match state {
            PresenceState::Online => self.everyone.note_synced_online(user, now_ms),
            // What the user said in so many words, unlike what a client says with every sync, holds
            // until the next sync.
            PresenceState::Unavailable if self.everyone.is_online(user, now_ms) => return,
            _ => {}
        }
        if state != PresenceState::Offline && self.everyone.set(user, state, None, now_ms) {
            self.waiters.wake_sharing(user);
        }
    }

    /// "The server maintains a timestamp of the last time it saw a pro-active event from the user":
    /// they came into a room or said something.
    pub fn seen_active(&self, caller: &Caller) {
        let now_ms = self.house.clock.now_ms();
        if self.house.options.presence && self.everyone.note_active(caller.user, now_ms) {
            self.waiters.wake_sharing(caller.user);
        }
    }

    /// The content of someone's presence.
    pub fn presence_of(&self, user: UserNid) -> Value {
        let now_ms = self.house.clock.now_ms();
        match self.everyone.lock().get(&user) {
            Some(present) => content(present, now_ms),
            None => json!({ "presence": "offline" }),
        }
    }

    /// Those whose presence changed after `after`, with its content.
    pub fn presence_changes(&self, after: u64) -> Vec<(UserNid, Value)> {
        if !self.house.options.presence {
            return Vec::new();
        }
        let now_ms = self.house.clock.now_ms();
        let all = self.everyone.lock();
        let changed = all.iter().filter(|(_, present)| present.changed > after);
        changed.map(|(user, present)| (*user, content(present, now_ms))).collect()
    }

    /// Those who have gone without a word are offline. A job calls this.
    pub fn expire_presence(&self) {
        let now_ms = self.house.clock.now_ms();
        let gone: Vec<_> = (self.everyone.lock().iter())
            .filter(|(_, present)| present.state != PresenceState::Offline)
            .filter(|(_, present)| present.active_ms + ONLINE_MS < now_ms)
            .map(|(user, _)| *user)
            .collect();
        for user in gone.into_iter().filter(|user| !self.waiters.is_waiting(*user)) {
            if self.everyone.set(user, PresenceState::Offline, None, now_ms) {
                self.waiters.wake_sharing(user);
            }
        }
    }
}

fn content(present: &Present, now_ms: u64) -> Value {
    let mut content = json!({
        "presence": present.state,
        "last_active_ago": now_ms.saturating_sub(present.active_ms),
        "currently_active": present.state == PresenceState::Online,
    });
    if let Some(status) = &present.status {
        content["status_msg"] = status.as_str().into();
    }
    content
}
