//! Who gets which form of a file: everything that [`appliance_rules::policy::decide`] must know is
//! gathered here, and everything it obliges to is written here, before a byte leaves.
//!
//! The first delivery of a file to a device, in each form, is in the audit trail and in the ledger of
//! copies; repetitions while the server runs are not written again. So a timeline full of thumbnails
//! costs one commit per device and file, shared with whatever else is being committed, and none on
//! repetition. What counts as an opening is written every time.

use appliance_ledger::keyspaces::{COPIES, DEVICE_COPIES, MEDIA_DUE, MEDIA_LINKS, OPENS, SESSIONS};
use appliance_ledger::rows::media::{LINK_GUESSED, LINK_OPENED, LINK_OWN, LinkRow, MediaRow};
use appliance_ledger::rows::policy::{CopyRow, OpensRow};
use appliance_ledger::{Commit, Direction};
use appliance_model::ruma::ServerName;
use appliance_model::{
    Caller, DeviceNid, Error, Kind, MediaNid, Role, RoomNid, SessionClass, UserNid,
};
use appliance_rules::Denial;
use appliance_rules::policy::{
    Action, Content, Effective, Field, Form, Object, Obligations, Permitted, Policy, Refused,
    RoomClass, Scope, Subject, built_in, decide,
};

use super::notice::note_given;
use super::serve::Reader;
use super::upload::OCTET_STREAM;
use super::{Living, Media, no_such_media};
use crate::house::House;
use crate::peers::MediaMode;
use crate::policy::of_room;

/// Under this user the openings of all are counted.
const EVERYONE: UserNid = UserNid(0);
/// References asked for their room's policy. A file has one or two.
const LINKS_MAX: usize = 256;

/// People whose counts are forgotten with a file; what is left of more says nothing.
const OPENERS_MAX: usize = 10_000;

type Link = ((MediaNid, u8, u64, u64), LinkRow);

/// A form as a number in keys and in memory: never renumbered.
pub(super) fn form_code(form: Form) -> u8 {
    match form {
        Form::Original => 0,
        Form::Thumbnail => 1,
        Form::MarkedThumbnail => 2,
        Form::MarkedView => 3,
        Form::Placeholder => 4,
    }
}

/// The form of such a number.
pub(super) fn form_of(code: u8) -> Option<Form> {
    [Form::Original, Form::Thumbnail, Form::MarkedThumbnail, Form::MarkedView, Form::Placeholder]
        .into_iter()
        .find(|form| form_code(*form) == code)
}

/// A refusal, beside the forms: refused once for each device is enough in the audit trail.
const REFUSED: u8 = u8::MAX;

impl Media {
    /// Judges a delivery, and puts it on record.
    ///
    /// # Errors
    ///
    /// * [`appliance_model::Kind::NotFound`]: its deadline has come.
    /// * [`appliance_model::Kind::Forbidden`]: the policy does not give it to this device, or it was
    ///   opened as often as it may be.
    pub(super) async fn govern(
        &self,
        reader: Reader<'_>,
        living: &Living,
        action: Action,
    ) -> Result<Obligations, Error> {
        let caller = match reader {
            Reader::Person(caller) => caller,
            Reader::Server(server) => return self.govern_peer(server, living, action).await,
            // What was lent was judged then.
            Reader::Guest(_) => return Err(no_such_media()),
        };
        let policy = self.policy_of(Some(caller.role), living).await?;
        let is_counted = [Field::OpensMax, Field::OpensPerUserMax, Field::TtlAfterOpenMs]
            .into_iter()
            .any(|field| policy.get(field).is_some());
        // Ranges and parallel fetches of one file come one after the other through this door.
        let door = match is_counted {
            true => Some(self.0.opening.enter(living.number.0).await),
            false => None,
        };
        let opens = match is_counted {
            true => self.opens(living.number, Some(caller.user)).await?,
            false => Opens::default(),
        };
        let uri = self.uri(&living.row.media_id);
        let object = object_of(&uri, (&living.row, living.deadline_ms), &opens);
        let subject = Subject {
            user_id: caller.user_id.as_str(),
            device_id: caller.device_id.as_str(),
            class: caller.class,
            is_uploader: living.row.uploader == caller.user.0,
        };
        let now_ms = self.time_ms_for(living.number);
        match decide(&policy, &subject, action, &object, now_ms) {
            Ok(permitted) => {
                let obligations = permitted.obligations;
                self.record(caller, living, permitted, (&opens, now_ms)).await?;
                drop(door);
                Ok(obligations)
            }
            Err(Refused::Gone) => Err(self.is_over(living).await),
            Err(Refused::Denied(denial)) => self.refuse(caller, living, denial).await,
        }
    }

    /// The same for another server, which asks for one of its users. Whether it gets files at all is
    /// the list of peers' to say; whether it gets this one, the policy's. What it does not get is not
    /// there: of a server that answers anything else its users are told (Synapse: 502) that it is broken.
    async fn govern_peer(
        &self,
        server: &ServerName,
        living: &Living,
        action: Action,
    ) -> Result<Obligations, Error> {
        let peer_mode = self.0.house.roll.media_mode(server);
        if peer_mode == MediaMode::Deny {
            return Err(Error::not_found("This server gives yours no files."));
        }
        if peer_mode == MediaMode::Lease {
            return Err(Error::not_found("This server lends yours files, look by look."));
        }
        let policy = self.policy_of(None, living).await?;
        let uri = self.uri(&living.row.media_id);
        // Looks of people elsewhere are counted where files are lent.
        let object = object_of(&uri, (&living.row, living.deadline_ms), &Opens::default());
        let (user_id, class) = (server.as_str(), SessionClass::PeerUser);
        let subject = Subject { user_id, device_id: "", class, is_uploader: false };
        match decide(&policy, &subject, action, &object, self.time_ms_for(living.number)) {
            // Avatars are outside the policy: everyone's client fetches everyone's.
            Ok(permitted) if living.deadline_ms.is_none() => Ok(permitted.obligations),
            Ok(Permitted { permit, mut obligations }) => {
                obligations.is_ephemeral |= peer_mode == MediaMode::Ephemeral;
                let mut commit = self.ledger().begin(permit);
                if obligations.form != Form::Placeholder {
                    note_given(&self.0.house, server, living.number, &mut commit);
                }
                self.ledger().commit(commit).await?;
                Ok(obligations)
            }
            Err(Refused::Gone) => Err(self.is_over(living).await),
            Err(Refused::Denied(denial)) => {
                Err(Error { kind: Kind::NotFound, ..self.ledger().refuse(denial).await })
            }
        }
    }

    async fn refuse(
        &self,
        caller: &Caller,
        living: &Living,
        denial: Denial,
    ) -> Result<Obligations, Error> {
        let refusal = (living.number, caller.device, REFUSED);
        if self.0.delivered.get(&refusal).is_some() {
            return Err(denial.error());
        }
        let error = self.ledger().refuse(denial).await;
        self.0.delivered.insert(refusal, ());
        Err(error)
    }

    /// What holds for a file and a reader: the strictest of all rooms in which its uploader shows it.
    pub(super) async fn policy_of(
        &self,
        role: Option<Role>,
        living: &Living,
    ) -> Result<Effective, Error> {
        let house = &self.0.house;
        let general = built_in(RoomClass::General);
        // Avatars and image packs are outside: everyone's app fetches everyone's. And a conformance
        // suite knows no classes.
        if living.deadline_ms.is_none() || house.options.policy.is_off {
            return Ok(Effective::of([
                (Scope::Settings, &house.settings_scope()),
                (Scope::Class, &general),
            ]));
        }
        let (links, more): (Vec<Link>, _) = self
            .ledger()
            .newest()
            .scan(&MEDIA_LINKS, &living.number, Direction::Forward, LINKS_MAX)
            .await?;
        if more {
            // Nobody shows a file in so many places but to get around something.
            return Ok(house.policy_in(role, Some(&Policy::unreadable())));
        }
        let mut rooms: Vec<RoomNid> = Vec::new();
        let mut policy = None;
        for ((_, class, ..), row) in &links {
            let Some(room) = row.room.map(RoomNid) else { continue };
            if !matches!(*class, LINK_OWN | LINK_GUESSED) {
                continue;
            }
            if !rooms.contains(&room) {
                rooms.push(room);
                let of_room = of_room(&self.0.rooms, room).await?;
                let held = house.policy_in(role, of_room.as_ref());
                meet(&mut policy, held);
            }
            let hint = row.hint.as_deref().map(crate::policy::room_policy);
            if let (Some(hint), Some(policy)) = (hint, &mut policy) {
                policy.meet(Scope::Event, &hint);
            }
        }
        Ok(policy.unwrap_or_else(|| house.policy_in(role, None)))
    }

    /// How often a file was opened, and by somebody; nobody, if this server does not know them.
    pub(super) async fn opens(
        &self,
        number: MediaNid,
        user: Option<UserNid>,
    ) -> Result<Opens, Error> {
        let Some(user) = user else { return Ok(Opens::default()) };
        let all = self.ledger().get(&OPENS, &(number, EVERYONE)).await?.unwrap_or_default();
        let mut own = self.ledger().get(&OPENS, &(number, user)).await?.unwrap_or_default();
        let reached_ms = self.time_ms_for(number);
        if self.now_ms() < reached_ms {
            // The clock was set back. Until it is there again a look would last: each fetch is one.
            own.open_until_ms = 0;
        }
        Ok(Opens { all, own })
    }

    /// What was counted of a file goes with it.
    pub(super) async fn forget_opens(
        &self,
        number: MediaNid,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let view = self.ledger().newest();
        let (rows, _) = view.scan(&OPENS, &number, Direction::Forward, OPENERS_MAX).await?;
        let rows: Vec<((MediaNid, UserNid), OpensRow)> = rows;
        for (key, _) in rows {
            commit.delete(&OPENS, &key);
        }
        Ok(())
    }

    async fn record(
        &self,
        caller: &Caller,
        living: &Living,
        permitted: Permitted,
        (opens, now_ms): (&Opens, u64),
    ) -> Result<(), Error> {
        let Permitted { permit, obligations } = permitted;
        let code = form_code(obligations.form);
        let delivery = (living.number, caller.device, code);
        let is_known = living.deadline_ms.is_none() || self.0.delivered.get(&delivery).is_some();
        if is_known && obligations.counts_for_ms.is_none() {
            return Ok(());
        }
        let mut commit = self.ledger().begin(permit);
        let (user, device_id) = (caller.user.0, caller.device_id.to_string());
        let copy = CopyRow { user, device_id, at_ms: now_ms };
        commit.put(&COPIES, &delivery, &copy);
        commit.put(&DEVICE_COPIES, &(caller.device, living.number, code), &());
        opens.count((living.number, caller.user), &obligations, now_ms, &mut commit);
        self.ledger().commit(commit).await?;
        self.0.delivered.insert(delivery, ());
        Ok(())
    }
}

/// How often a file was opened.
#[derive(Clone, Debug, Default)]
pub(super) struct Opens {
    /// By all people together.
    all: OpensRow,
    /// By the one who asks.
    own: OpensRow,
}

impl Opens {
    /// Counts one more look, if it counts, of somebody; the first may start the clock.
    pub fn count(
        &self,
        (number, user): (MediaNid, UserNid),
        obligations: &Obligations,
        now_ms: u64,
        commit: &mut Commit,
    ) {
        let Some(window_ms) = obligations.counts_for_ms else { return };
        let open_until_ms = now_ms.saturating_add(window_ms);
        for (who, row) in [(EVERYONE, &self.all), (user, &self.own)] {
            let row = OpensRow { opens: row.opens + 1, open_until_ms };
            commit.put(&OPENS, &(number, who), &row);
        }
        if let Some(ends_in_ms) = obligations.ends_in_ms.filter(|_| self.all.opens == 0) {
            end_after_open(number, now_ms.saturating_add(ends_in_ms), commit);
        }
    }
}

/// A file as the policy sees it.
pub(super) fn object_of<'a>(
    uri: &'a str,
    (row, deadline_ms): (&MediaRow, Option<u64>),
    opens: &Opens,
) -> Object<'a> {
    Object {
        uri,
        content: content_of(row),
        is_captured: row.is_captured.unwrap_or_default(),
        may_tell_place: may_tell_place(row),
        deadline_ms,
        opens: opens.all.opens,
        opens_of_user: opens.own.opens,
        open_until_ms: opens.own.open_until_ms,
    }
}

/// What this server knows about the bytes: what it is called. What a picture's bytes say is judged when
/// it is rendered.
fn content_of(row: &MediaRow) -> Content {
    let content_type = row.content_type.as_deref().unwrap_or(OCTET_STREAM);
    if content_type == OCTET_STREAM {
        return Content::Opaque;
    }
    // The four kinds that this server can read.
    let is_picture = ["image/jpeg", "image/png", "image/gif", "image/webp"]
        .iter()
        .any(|known| content_type.starts_with(known));
    if is_picture { Content::Picture } else { Content::Other }
}

/// The first look starts the clock.
fn end_after_open(number: MediaNid, deadline_ms: u64, commit: &mut Commit) {
    let link = LinkRow { room: None, redacted: None, hint: None, afar: None };
    commit.put(&MEDIA_LINKS, &(number, LINK_OPENED, deadline_ms, 0), &link);
    commit.put(&MEDIA_DUE, &(deadline_ms, number), &());
}

fn meet(policy: &mut Option<Effective>, held: Effective) {
    match policy {
        None => *policy = Some(held),
        Some(policy) => policy.meet_all(&held),
    }
}

/// Whether it is a picture or a film from which nobody took what its camera wrote beside it.
fn may_tell_place(row: &MediaRow) -> bool {
    let is_picture = row.sniffed.as_deref().is_some_and(|kind| kind.starts_with("image/"));
    (is_picture || is_film(row)) && !row.is_clean.unwrap_or_default()
}

/// One container carries films and voices: what is called a voice is taken for one.
fn is_film(row: &MediaRow) -> bool {
    let begins = |kind: Option<&str>, with| kind.is_some_and(|kind| kind.starts_with(with));
    let said = row.content_type.as_deref();
    begins(said, "video/") || (begins(row.sniffed.as_deref(), "video/") && !begins(said, "audio/"))
}

/// What a policy server must know of a file of this server: what it is, whether the camera page took it, and
/// whether it may tell what its camera wrote beside it. Nothing, if it is not there.
pub(crate) async fn shown_here(
    house: &House,
    media_id: &str,
) -> Result<Option<(Content, bool, bool)>, Error> {
    let Some((_, row)) = super::row_of(house, media_id).await? else { return Ok(None) };
    let content = if is_film(&row) { Content::Other } else { Content::Picture };
    Ok(Some((content, row.is_captured.unwrap_or_default(), may_tell_place(&row))))
}

/// Whether a device may show a file that this server can read to a room where `policy` holds.
///
/// # Errors
///
/// [`appliance_model::Kind::Forbidden`], on record.
pub(super) async fn may_show(
    house: &House,
    policy: &Effective,
    (user_id, device): (&appliance_model::ruma::UserId, Option<DeviceNid>),
    (uri, row): (&str, &MediaRow),
) -> Result<(), Error> {
    let is_ruled = [Field::UploadFromUnmanaged, Field::StripMetadata]
        .into_iter()
        .any(|field| policy.get(field).is_some());
    if !is_ruled || house.options.policy.is_off {
        return Ok(());
    }
    let session = match device {
        Some(device) => house.ledger.get(&SESSIONS, &device).await?,
        None => None,
    };
    let class = house.class_in(session.as_ref());
    let device_id = session.map(|row| row.device_id).unwrap_or_default();
    let user_id = user_id.as_str();
    let subject = Subject { user_id, device_id: &device_id, class, is_uploader: true };
    // What is shown is judged by its bytes, too: whatever is no film counts as a picture.
    let content = if is_film(row) { Content::Other } else { Content::Picture };
    let object = Object { content, ..object_of(uri, (row, None), &Opens::default()) };
    match decide(policy, &subject, Action::Show, &object, 0) {
        Ok(_) => Ok(()),
        Err(Refused::Gone) => Err(no_such_media()),
        Err(Refused::Denied(denial)) => {
            let error = house.ledger.refuse(denial).await;
            Err(match &house.options.photo_page_url {
                // The app shows this sentence: it says where the camera page is.
                Some(url) => Error::forbidden(format!("{} {url}", error.message)),
                None => error,
            })
        }
    }
}
