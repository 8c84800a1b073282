//! What kind of session it is, and when it must end.
//!
//! The class is decided when a session begins and kept beside its device. A session whose time is over
//! is refused with `soft_logout: false`, which makes apps remove what they keep; a job ends it for good
//! within a minute, with its keys.

use appliance_ledger::keyspaces::{ACCOUNTS, DEVICES, LAST_SEEN, SESSIONS};
use appliance_ledger::rows::DeviceRow;
use appliance_ledger::rows::policy::SessionRow;
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::UserId;
use appliance_model::{DeviceNid, Error, Role, SessionClass, UserNid};
use appliance_rules::Permit;
use appliance_rules::policy::Field;

use super::Accounts;
use super::authenticate::role_of;

/// Sessions looked at in one trip of the job.
const PAGE: usize = 500;

impl Accounts {
    /// The class of a session that begins now, or is another from now on.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub(super) async fn begin_class(
        &self,
        key: &(UserNid, String),
        device: DeviceNid,
        class: Option<SessionClass>,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let class = class.unwrap_or(self.house.options.policy.session_class);
        if let Some(before) = self.house.ledger.get(&SESSIONS, &device).await? {
            let before = self.house.class_in(Some(&before));
            self.keys.class_changes(key, device, (before, class), commit).await?;
        }
        let row = SessionRow {
            user: key.0.0,
            device_id: key.1.clone(),
            class: class.as_str().to_owned(),
            opened_ms: self.house.clock.now_ms(),
        };
        commit.put(&SESSIONS, &device, &row);
        Ok(())
    }

    /// The class of a device's session.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn class_of(&self, device: DeviceNid) -> Result<SessionClass, Error> {
        let row = self.house.ledger.get(&SESSIONS, &device).await?;
        Ok(self.house.class_in(row.as_ref()))
    }

    /// A user of this server, and what their account may do.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such account.
    pub async fn role_of(&self, user_id: &UserId) -> Result<(UserNid, Role), Error> {
        let nobody = || Error::not_found("There is no such account here.");
        let ledger = &self.house.ledger;
        let user = ledger.user(user_id).await?.ok_or_else(nobody)?;
        let account = ledger.get(&ACCOUNTS, &user).await?.ok_or_else(nobody)?;
        Ok((user, role_of(&account)))
    }

    /// The policy of the house has changed: what was remembered about sessions is read again.
    pub(crate) fn policy_changed(&self) {
        self.callers.forget_all();
    }

    /// When a session must end: milliseconds since the Unix epoch. None: by no rule.
    pub(super) async fn session_end(
        &self,
        (user, role): (UserNid, Role),
        device: (DeviceNid, &str),
        row: Option<&SessionRow>,
    ) -> Result<Option<u64>, Error> {
        if self.house.options.policy.is_off {
            return Ok(None);
        }
        let Some((longest, idle)) = Field::session_of(self.house.class_in(row)) else {
            return Ok(None);
        };
        let policy = self.house.policy_for(role);
        let (longest, idle) = (policy.get(longest), policy.get(idle));
        if longest.is_none() && idle.is_none() {
            return Ok(None);
        }
        let opened_ms = match row {
            Some(row) => row.opened_ms,
            None => {
                let key = (user, device.1.to_owned());
                let device = self.house.ledger.get(&DEVICES, &key).await?;
                device.map_or(0, |device| device.created_ms)
            }
        };
        let seen_ms = match idle {
            Some(_) => self.seen_ms(user, device.0).await?.max(opened_ms),
            None => opened_ms,
        };
        let ends = [
            longest.map(|ms| opened_ms.saturating_add(ms)),
            idle.map(|ms| seen_ms.saturating_add(ms)),
        ];
        Ok(ends.into_iter().flatten().min())
    }

    /// When a device was last seen; zero if it is not known.
    pub(crate) async fn seen_ms(&self, user: UserNid, device: DeviceNid) -> Result<u64, Error> {
        if let Some((at_ms, _)) = self.seen_lately(device) {
            return Ok(at_ms);
        }
        let row = self.house.ledger.get(&LAST_SEEN, &(user, device)).await?;
        Ok(row.map_or(0, |row| row.at_ms))
    }

    /// Whether a device's session must be over by now.
    pub(super) async fn is_session_over(
        &self,
        user: UserNid,
        device_id: &str,
        device: &DeviceRow,
    ) -> Result<bool, Error> {
        let account = self.house.ledger.get(&ACCOUNTS, &user).await?;
        let role = account.as_ref().map_or(Role::User, role_of);
        let number = DeviceNid(device.device);
        let row = self.house.ledger.get(&SESSIONS, &number).await?;
        let end = self.session_end((user, role), (number, device_id), row.as_ref()).await?;
        Ok(end.is_some_and(|end_ms| end_ms <= self.house.clock.now_ms()))
    }

    /// A phone is lost: its session, device, keys and pushers end now, and everybody who encrypts for
    /// its owner hears of it. Returns its number and when it was last here, in milliseconds since the
    /// Unix epoch.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::NotFound`] if there is no such user or device.
    pub async fn device_lost(
        &self,
        user_id: &UserId,
        device_id: &str,
        by: &str,
    ) -> Result<(DeviceNid, u64), Error> {
        let (user, _) = self.role_of(user_id).await?;
        let ledger = &self.house.ledger;
        let inside = self.doors.enter(user.0).await;
        let key = (user, device_id.to_owned());
        let device = ledger.get(&DEVICES, &key).await?;
        let device = device.ok_or_else(|| Error::not_found("This user has no such device."))?;
        let number = DeviceNid(device.device);
        let (seen_ms, _) = self.last_trace(user, number).await?;
        let object = format!("{user_id} {device_id}");
        let mut commit = ledger.begin(Permit::administration("device.lost", by, object));
        self.end_device(key, device, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await?;
        Ok((number, seen_ms))
    }

    /// Ends the sessions whose time is over, with their devices and keys. A job calls this every
    /// minute. Returns how many it ended.
    ///
    /// # Errors
    ///
    /// If the store fails; calling again goes on.
    pub async fn end_overdue_sessions(&self) -> Result<usize, Error> {
        let policies = [Role::User, Role::Administrator].map(|role| self.house.policy_for(role));
        let is_limited = |class: SessionClass| {
            let fields = Field::session_of(class).into_iter().flat_map(|(one, two)| [one, two]);
            let mut set = fields.flat_map(|field| policies.iter().map(move |p| p.get(field)));
            set.any(|limit| limit.is_some())
        };
        if self.house.options.policy.is_off {
            return Ok(0);
        }
        type Session = (DeviceNid, SessionRow);
        let (mut from, mut ended) = (DeviceNid(0), 0);
        loop {
            let view = self.house.ledger.newest();
            let end = DeviceNid(u64::MAX);
            let (rows, more): (Vec<Session>, _) =
                view.scan_between(&SESSIONS, (&from, &end), Direction::Forward, PAGE).await?;
            for (number, row) in rows {
                from = DeviceNid(number.0 + 1);
                // Most classes have no limit: their sessions are not looked up.
                if is_limited(self.house.class_in(Some(&row))) {
                    ended += usize::from(self.end_if_overdue(number, &row).await?);
                }
            }
            if !more {
                return Ok(ended);
            }
        }
    }

    async fn end_if_overdue(&self, number: DeviceNid, row: &SessionRow) -> Result<bool, Error> {
        let ledger = &self.house.ledger;
        let key = (UserNid(row.user), row.device_id.clone());
        let inside = self.doors.enter(row.user).await;
        let device = ledger.get(&DEVICES, &key).await?;
        let Some(device) = device.filter(|device| device.device == number.0) else {
            // Its device is gone by another way.
            let mut commit = ledger.begin(Permit::housekeeping());
            commit.delete(&SESSIONS, &number);
            return ledger.commit(commit).await.map(|_| false);
        };
        if !self.is_session_over(key.0, &key.1, &device).await? {
            return Ok(false);
        }
        let user_id = ledger.user_id(key.0).await?;
        let mut commit = ledger.begin(Permit::own("session.expired", &user_id, &key.1));
        self.end_device(key, device, &mut commit).await?;
        commit.hold(inside);
        ledger.commit(commit).await.map(|_| true)
    }
}
