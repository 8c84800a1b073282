//! Enrolment: the administrator gives out a code that is good once; whoever shows it raises the class
//! of the session they show it in.
//!
//! Any app will do: the code is shown by the enrolment endpoint, or by giving the session the code for
//! a name, which the server takes for the code and not for a name.

use appliance_ledger::Digest;
use appliance_ledger::keyspaces::{DEVICES, ENROLMENTS};
use appliance_ledger::rows::policy::EnrolmentRow;
use appliance_model::ruma::{DeviceId, UserId};
use appliance_model::{Caller, DeviceNid, Error, SessionClass};
use appliance_rules::Permit;

use super::Accounts;
use crate::limits::{Limit, Whose};

/// What is read aloud and typed on a phone: no letter that looks like another.
const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// Four groups of four: 80 bits.
const GROUPS: usize = 4;
const GROUP_LETTERS: usize = 4;
/// What a code begins with, so that a session's name is not taken for one by accident.
const PREFIX: &str = "WSE";
/// A code lies on paper: a week at most.
pub const CODE_MS_MAX: u64 = 7 * 24 * 60 * 60 * 1_000;

impl Accounts {
    /// Makes a code that raises one session to `class`, within `valid_ms`, for one user or for
    /// whoever shows it first.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] for a class that nobody enrols into, or a time beyond
    /// [`CODE_MS_MAX`]; [`appliance_model::Kind::NotFound`] if there is no such user.
    pub async fn make_enrolment_code(
        &self,
        class: SessionClass,
        user_id: Option<&UserId>,
        valid_ms: u64,
        by: &str,
    ) -> Result<String, Error> {
        if class == SessionClass::PeerUser {
            return Err(Error::invalid_param("Users of other servers do not enrol here."));
        }
        if !(1..=CODE_MS_MAX).contains(&valid_ms) {
            return Err(Error::invalid_param("A code is good for a week at most."));
        }
        let user = match user_id {
            Some(user_id) => Some(self.role_of(user_id).await?.0.0),
            None => None,
        };
        let code = self.new_code();
        let ledger = &self.house.ledger;
        let expires_ms = self.house.clock.now_ms().saturating_add(valid_ms);
        let row = EnrolmentRow { class: class.as_str().to_owned(), user, expires_ms };
        let whom = user_id.map_or_else(|| "anyone".to_owned(), ToString::to_string);
        let object = format!("{} {whom}", class.as_str());
        let mut commit = ledger.begin(Permit::administration("enrolment.offered", by, object));
        commit.put(&ENROLMENTS, &self.code_digest(&code), &row);
        ledger.commit(commit).await?;
        Ok(code)
    }

    fn new_code(&self) -> String {
        let mut random = [0; GROUPS * GROUP_LETTERS];
        self.house.dice.fill(&mut random);
        let mut code = PREFIX.to_owned();
        for group in random.chunks(GROUP_LETTERS) {
            code.push('-');
            code.extend(group.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])));
        }
        code
    }

    /// Whether a text looks like a code.
    pub(super) fn is_code(text: &str) -> bool {
        let letters = plain(text);
        letters.len() == PREFIX.len() + GROUPS * GROUP_LETTERS && letters.starts_with(PREFIX)
    }

    fn code_digest(&self, code: &str) -> Digest {
        self.house.ledger.digest(&[b"enrolment", plain(code).as_bytes()])
    }

    /// Raises the class of one of the caller's sessions. The code is used up.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`] if the code is unknown, used, too old or somebody else's:
    /// which of them is not said. [`appliance_model::Kind::Limited`] after too many of those.
    pub async fn enrol(
        &self,
        caller: &Caller,
        device_id: &DeviceId,
        code: &str,
    ) -> Result<SessionClass, Error> {
        self.limits.check(Limit::FailedLogin, Whose::User(caller.user))?;
        let ledger = &self.house.ledger;
        // The door of those who are not in yet comes first: two people with the same paper come one
        // after the other, and nobody inside an account waits here.
        let alone = self.doors.enter(0).await;
        let inside = self.doors.enter(caller.user.0).await;
        let digest = self.code_digest(code);
        let now_ms = self.house.clock.now_ms();
        let row = ledger.get(&ENROLMENTS, &digest).await?.filter(|row| {
            row.expires_ms > now_ms && row.user.is_none_or(|user| user == caller.user.0)
        });
        let class = row.as_ref().and_then(|row| SessionClass::parse(&row.class));
        let Some(class) = class else {
            self.limits.take(Limit::FailedLogin, Whose::User(caller.user))?;
            return Err(Error::forbidden("This code is not valid (any more). Ask for a new one."));
        };
        let key = (caller.user, device_id.to_string());
        let device = ledger.get(&DEVICES, &key).await?;
        let device = device.ok_or_else(|| Error::not_found("You have no device with this ID."))?;
        let object = format!("{device_id} {}", class.as_str());
        let mut commit = ledger.begin(Permit::own("session.enrolled", &caller.user_id, object));
        commit.delete(&ENROLMENTS, &digest);
        self.begin_class(&key, DeviceNid(device.device), Some(class), &mut commit).await?;
        self.forget_device(&device, &mut commit);
        commit.hold((inside, alone));
        ledger.commit(commit).await?;
        Ok(class)
    }
}

fn plain(code: &str) -> String {
    let letters = code.chars().filter(char::is_ascii_alphanumeric);
    letters.map(|letter| letter.to_ascii_uppercase()).collect()
}
