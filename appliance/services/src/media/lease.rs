//! Files that people of other hospitals look at. A hospital of our kind asks for each look; what is lent is
//! given once, within a minute, to that hospital alone, in the form that both policies allow, and passes
//! through it. The look is judged and counted when it is lent: here, where the file is at home.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use appliance_ledger::keyspaces::{MEDIA_LINKS, MEMBERS};
use appliance_ledger::rows::media::{LINK_GUESSED, LINK_OTHER, LINK_OWN, LinkRow};
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use appliance_model::{Error, Kind, MediaNid, RoomNid, SessionClass, UserNid};
use appliance_rules::policy::{
    Action, Field, Form, Mode, Obligations, Permitted, Refused, Subject, lend,
};
use serde::Deserialize;

use super::govern::object_of;
use super::notice::note_given;
use super::serve::{Found, Opened, Reader};
use super::thumbnail::Wanted;
use super::{Living, Media, no_such_media};

/// A lease that is not used by then is over.
pub const LEASE_MS: u64 = 60_000;
/// Leases that are not used yet, about 300 bytes each. A ward round opens a hundred photos a minute.
const LEASES_MAX: usize = 10_000;
/// Letters and digits of a lease: 190 bits.
const TOKEN_LETTERS: usize = 32;
/// References looked through for a room that the reader is in.
const LINKS_MAX: usize = 256;

/// What another hospital asks for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Wish {
    /// Of a file of ours.
    pub media_id: String,
    /// Who looks: a user of the asking server.
    pub user_id: OwnedUserId,
    /// The class of their session there.
    pub device_class: String,
    /// The most that they may have there: `original`, `thumbnail`, `viewer`, `placeholder`.
    pub mode: String,
    /// A smaller picture, not the file.
    #[serde(default)]
    pub thumbnail: bool,
}

/// What is lent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Shown once, when the file is fetched.
    pub token: String,
    /// Good until then: milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// Leases that are not used yet. A restart ends all of them.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<String, Held>>);

#[derive(Clone, Debug)]
struct Held {
    server: OwnedServerName,
    user_id: OwnedUserId,
    number: MediaNid,
    action: Action,
    obligations: Obligations,
    lent_ms: u64,
}

impl Held {
    /// A clock that goes back ends a lease, too.
    fn is_good(&self, now_ms: u64) -> bool {
        now_ms.checked_sub(self.lent_ms).is_some_and(|passed_ms| passed_ms < LEASE_MS)
    }
}

impl Leases {
    fn keep(&self, token: &str, held: Held, now_ms: u64) -> Result<(), Error> {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if leases.len() >= LEASES_MAX {
            leases.retain(|_, held| held.is_good(now_ms));
        }
        if leases.len() >= LEASES_MAX {
            return Err(Error::new(
                Kind::Limited { retry_after_ms: LEASE_MS },
                "Too many files are lent at once.",
            ));
        }
        leases.insert(token.to_owned(), held);
        Ok(())
    }

    /// Whatever comes of it: nobody uses it again.
    fn take(&self, token: &str) -> Option<Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(token)
    }
}

impl Media {
    /// Lends a file to a user of another hospital for one look, which is counted and on record.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: it is not there, its deadline has come, or the user is in no room that shows
    ///   it.
    /// * [`Kind::Forbidden`]: the server asks for somebody else's user, gets no files, or is not of our
    ///   kind; or the policy gives it to no such session.
    /// * [`Kind::InvalidParam`]: a word that no policy has.
    /// * [`Kind::Limited`]: too many leases are not used yet.
    pub async fn lend(&self, server: &ServerName, wish: Wish) -> Result<Lease, Error> {
        let house = &self.0.house;
        let unknown = |what| Error::invalid_param(format!("`{what}` has no known value."));
        let class =
            SessionClass::parse(&wish.device_class).ok_or_else(|| unknown("device_class"))?;
        let mode = Mode::ALL.into_iter().find(|mode| mode.as_str() == wish.mode);
        let mode = mode.ok_or_else(|| unknown("mode"))?;
        if *wish.user_id.server_name() != *server {
            return Err(Error::forbidden("A server asks for its own people."));
        }
        if !house.roll.allows_media(server) {
            return Err(Error::forbidden("This server gives yours no files."));
        }
        // On trust, but on somebody's word.
        if !self.0.peers.promise_of(server).await?.lends {
            return Err(Error::forbidden("Files are lent to servers that promise to keep none."));
        }
        let own = house.server_name.as_str();
        let found = self.find(own, &wish.media_id, 0).await?;
        let living = found.living();
        let reader = house.ledger.user(&wish.user_id).await?;
        if living.deadline_ms.is_some() && !self.is_shown_to(living.number, reader).await? {
            return Err(no_such_media());
        }
        let action = if wish.thumbnail { Action::Thumbnail } else { Action::Download };
        let asked = (&*wish.user_id, class, mode);
        let obligations = self.govern_lease((server, reader), living, asked, action).await?;
        let token = house.dice.letters(TOKEN_LETTERS);
        let now_ms = self.now_ms();
        let held = Held {
            server: server.to_owned(),
            user_id: wish.user_id,
            number: living.number,
            action,
            obligations,
            lent_ms: now_ms,
        };
        self.0.leases.keep(&token, held, now_ms)?;
        Ok(Lease { token, until_ms: now_ms + LEASE_MS })
    }

    /// Whether somebody is in a room that shows a file.
    async fn is_shown_to(&self, number: MediaNid, user: Option<UserNid>) -> Result<bool, Error> {
        type Link = ((MediaNid, u8, u64, u64), LinkRow);
        let Some(user) = user else { return Ok(false) };
        let view = self.ledger().newest();
        let (links, _): (Vec<Link>, _) =
            view.scan(&MEDIA_LINKS, &number, Direction::Forward, LINKS_MAX).await?;
        for ((_, class, ..), row) in &links {
            let Some(room) = row.room.map(RoomNid) else { continue };
            let is_shown = matches!(*class, LINK_OWN | LINK_GUESSED | LINK_OTHER);
            let place = (room, membership::JOIN, user);
            if is_shown && self.ledger().get(&MEMBERS, &place).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Judges the look and puts it on record, as for a person here.
    async fn govern_lease(
        &self,
        (server, reader): (&ServerName, Option<UserNid>),
        living: &Living,
        (user_id, class, mode): (&UserId, SessionClass, Mode),
        action: Action,
    ) -> Result<Obligations, Error> {
        let policy = self.policy_of(None, living).await?;
        // Looks of one file come one after the other through this door.
        let _door = self.0.opening.enter(living.number.0).await;
        let opens = self.opens(living.number, reader).await?;
        let uri = self.uri(&living.row.media_id);
        let object = object_of(&uri, (&living.row, living.deadline_ms), &opens);
        let user_id = user_id.as_str();
        let subject = Subject { user_id, device_id: "", class, is_uploader: false };
        let now_ms = self.time_ms_for(living.number);
        match lend(&policy, &subject, mode, (action, &object), now_ms) {
            // Avatars are outside the policy: everyone's client fetches everyone's.
            Ok(permitted) if living.deadline_ms.is_none() => Ok(permitted.obligations),
            Ok(Permitted { permit, obligations }) => {
                let mut commit = self.ledger().begin(permit);
                if obligations.form != Form::Placeholder {
                    note_given(&self.0.house, server, living.number, &mut commit);
                }
                if let Some(user) = reader {
                    opens.count((living.number, user), &obligations, now_ms, &mut commit);
                }
                self.ledger().commit(commit).await?;
                Ok(obligations)
            }
            Err(Refused::Gone) => Err(self.is_over(living).await),
            Err(Refused::Denied(denial)) => Err(self.ledger().refuse(denial).await),
        }
    }

    /// Gives out what was lent: the file, or a thumbnail in the size `wanted`. A lease is good for one
    /// attempt.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: the deadline has come meanwhile.
    /// * [`Kind::Forbidden`]: no such lease, or one for another server, file or form, or it is over.
    pub async fn open_lent(
        &self,
        server: &ServerName,
        (found, token): (&Found, &str),
        wanted: Option<Wanted>,
    ) -> Result<Opened, Error> {
        let living = found.living();
        let action = if wanted.is_some() { Action::Thumbnail } else { Action::Download };
        let is_good = |held: &Held| {
            *held.server == *server
                && held.number == living.number
                && held.action == action
                && held.is_good(self.now_ms())
        };
        let held = self.0.leases.take(token).filter(is_good);
        let held = held.ok_or_else(|| Error::forbidden("That lease is used, over, or none."))?;
        if held.obligations.form == Form::Original {
            let to = (Some(server.to_owned()), true);
            let delivery = self.deliver(living, (0, found.bytes()), to).await?;
            return Ok(Opened::Original(delivery));
        }
        let largest = Wanted { width: 800, height: 600, crop: false, animated: false };
        let reader = Reader::Guest(&held.user_id);
        let wanted = wanted.unwrap_or(largest);
        Ok(Opened::Picture(self.picture(reader, found, wanted, held.obligations).await?))
    }

    /// The most that this house gives of files of other hospitals to a session of this class: it does not
    /// know which room shows them, so what holds for everything holds for them.
    pub(super) fn mode_from_afar(&self, caller: &appliance_model::Caller) -> Mode {
        let house = &self.0.house;
        if house.options.policy.is_off {
            return Mode::Original;
        }
        let policy = house.policy_in(Some(caller.role), None);
        Mode::of(policy.get(Field::mode_of(caller.class)))
    }
}
