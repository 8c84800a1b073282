//! What refers to a file, and what that does to its life.
//!
//! * The uploader's own event makes the file live no longer than the event's room allows, from the
//!   moment it was sent. An event of somebody else's (a forward) gets a deadline of its own: when it has
//!   come the event is redacted, and the file stays for those it was uploaded for. Otherwise anyone
//!   could destroy anyone's photo by showing it in a strict room.
//! * In an encrypted room the server cannot see which event shows which file. A file that came as
//!   octets is bound to the first `m.room.encrypted` that its device sends after the upload, and to all
//!   others it sends within [`BINDING_MS`] of the upload; the strictest of their rooms counts. Nothing
//!   is redacted by such a guess.
//! * What lies on another server cannot be erased here. The event that shows it gets a deadline all the same, a
//!   minute later than if it lay here: by then that server has taken it back itself, if it keeps the policy.
//!   Once that server says that the file is erased ([`super::ended`]), the event is taken back at once.
//! * What the uploader uses as an avatar or in an image pack is kept while it is used so.
//!
//! All of it happens inside the commit that adds the event.

use appliance_ledger::blobs::{BlobName, KEPT};
use appliance_ledger::keyspaces::{
    ENDED_AFAR, INHERITED, MEDIA, MEDIA_DUE, MEDIA_KEPT, MEDIA_LINKS, MEDIA_REDACTIONS,
    MEDIA_UNBOUND, ROOM_MEDIA, SHOWN_AFAR,
};
use appliance_ledger::rows::media::{
    LINK_GUESSED, LINK_KEPT, LINK_OTHER, LINK_OWN, LinkRow, MediaRow, RedactionRow, RoomMediaRow,
    Stage, UnboundRow,
};
use appliance_ledger::{Commit, Digest, Direction, Ledger};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::{DeviceNid, Error, EventNid, MediaNid, Pdu, RoomNid, UserNid};
use appliance_rules::policy::{
    self, Effective, Field, POLICY_TYPE, Policy, RETENTION_TYPES, RoomClass, Scope, Use,
    media_id_of, shown_uris,
};
use minicbor::bytes::ByteArray;

use super::govern::may_show;
use super::purge::condemn;
use super::row_of;
use crate::house::House;
use crate::policy::room_policy;
use crate::rooms::OpenRoom;
use crate::rooms::retention::file_ttl_ms;

/// So much later than its own server does this one take back an event that shows what lies there, in
/// milliseconds.
pub const AFAR_LATER_MS: u64 = 60_000;
/// An upload and the event about it follow each other at once; clients with a send queue may send
/// something else in between.
pub const BINDING_MS: u64 = 60_000;
/// Uploads of one device that wait for their event: more than an album has.
const UNBOUND_MAX: usize = 64;
/// A stricter policy meets at most this many references, about 20 MB of rows, in its one commit.
const TIGHTENED_MAX: usize = 50_000;
const PAGE: usize = 1_000;
/// References looked at to find out whether any is left.
const OTHERS_MAX: usize = 256;

/// An event that is being added to a room.
pub(crate) struct Sent<'a> {
    pub number: EventNid,
    pub pdu: &'a Pdu,
    /// The device it comes from, if it comes from one of ours.
    pub device: Option<DeviceNid>,
    /// The state event it replaces.
    pub replaces: Option<EventNid>,
}

/// Follows what an event refers to. To be called for every event that is added, in its commit; almost
/// all cost a search for `mxc:` in their content.
///
/// # Errors
///
/// [`appliance_model::Kind::BadJson`] for a policy that cannot be kept as it is written.
pub(crate) async fn link(
    house: &House,
    room: &OpenRoom<'_>,
    sent: Sent<'_>,
    commit: &mut Commit,
) -> Result<(), Error> {
    let (kind, content) = (&sent.pdu.kind, sent.pdu.content.get());
    let is_state = sent.pdu.state_key.is_some();
    let linking =
        Linking { house, room: room.room, number: sent.number, now_ms: house.clock.now_ms() };
    if is_state {
        if let Some(replaced) = sent.replaces.filter(|_| may_keep(kind)) {
            linking.release(replaced, commit).await?;
        }
        if kind.to_string() == POLICY_TYPE && sent.pdu.state_key.as_deref() == Some("") {
            let policy = linking.new_policy(room, sent.pdu, commit).await?;
            let held = house.policy_in(None, Some(&policy));
            return linking.tighten(file_ttl_ms(house, room, (&held, None)).await?, commit).await;
        }
        if RETENTION_TYPES.contains(&kind.to_string().as_str()) {
            let held = asked(house, room, "{}").await?.policy;
            let ttl_ms = file_ttl_ms(house, room, (&held, Some(content))).await?;
            return linking.tighten(ttl_ms, commit).await;
        }
    }
    if *kind == TimelineEventType::RoomEncryption && house.is_ours(&sent.pdu.sender) {
        may_encrypt(house, room).await?;
    }
    if *kind == TimelineEventType::RoomEncrypted
        && let Some(device) = sent.device
    {
        let unbound = linking.unbound(device).await?;
        if !unbound.is_empty() {
            let asked = asked(house, room, content).await?;
            linking.guess(device, unbound, &asked, commit);
        }
    }
    let references =
        policy::references(&kind.to_string(), is_state, content, house.server_name.as_str());
    let afar = shown_afar(house, (&kind.to_string(), is_state), content);
    if references.is_empty() && afar.is_none() {
        return Ok(());
    }
    let sender = house.ledger.user(&sent.pdu.sender).await?;
    let asked = asked(house, room, content).await?;
    for (media_id, as_what) in references {
        let Some((media, row)) = row_of(house, &media_id).await? else { continue };
        if row.stage != Stage::Present {
            continue;
        }
        if as_what == Use::Content && house.is_ours(&sent.pdu.sender) {
            let uri = format!("mxc://{}/{media_id}", house.server_name);
            may_show(house, &asked.policy, (&sent.pdu.sender, sent.device), (&uri, &row)).await?;
        }
        let is_own = sender == Some(UserNid(row.uploader));
        // A member event repeats the sender's profile in every room: that is kept already.
        let is_profile = as_what == Use::Kept
            && *kind == TimelineEventType::RoomMember
            && is_avatar_of(house, media, sender).await?;
        if !is_profile {
            linking.refer((media, &row), (as_what, is_own), &asked, commit).await?;
        }
    }
    match afar {
        Some(files) => linking.refer_afar(files, &asked, commit).await,
        None => Ok(()),
    }
}

/// What a message shows that lies on other servers, by [`afar_digest`]; nothing, if all lies here. More than are
/// followed may lie anywhere, and has no names.
fn shown_afar(house: &House, (kind, is_state): (&str, bool), content: &str) -> Option<Vec<Digest>> {
    let own = house.server_name.as_str();
    let Some(uris) = shown_uris(kind, is_state, content) else { return Some(Vec::new()) };
    let is_afar = |(uri, as_what): &(String, Use)| {
        *as_what == Use::Content && media_id_of(uri, own).is_none()
    };
    let afar = uris.into_iter().filter(is_afar);
    let afar: Vec<_> = afar.map(|(uri, _)| afar_digest(&house.ledger, &uri)).collect();
    (!afar.is_empty()).then_some(afar)
}

/// The key under which a file of another server is known.
pub(super) fn afar_digest(ledger: &Ledger, uri: &str) -> Digest {
    ledger.digest(&[b"afar", uri.as_bytes()])
}

/// What holds for what a message shows: the room's rules, and what the message itself asks for.
struct Asked {
    policy: Effective,
    /// How long it lives at most, in milliseconds.
    ttl_ms: u64,
    /// Of how long it lives, for the reader of the row.
    hint: Option<String>,
}

async fn asked(house: &House, room: &OpenRoom<'_>, content: &str) -> Result<Asked, Error> {
    let event = room.state(&StateEventType::from(POLICY_TYPE), "").await?;
    let of_room = event.map(|event| room_policy(event.content.get()));
    let mut policy = house.policy_in(None, of_room.as_ref());
    let hint = hint_of(content);
    if let Some(hint) = &hint {
        policy.meet(Scope::Event, hint);
    }
    let ttl_ms = file_ttl_ms(house, room, (&policy, None)).await?;
    Ok(Asked { policy, ttl_ms, hint: hint.map(|hint| hint.to_json().to_string()) })
}

/// What a message asks for what it shows: a policy object beside its other content. One that cannot be
/// read asks for nothing: the room's rules hold anyway.
fn hint_of(content: &str) -> Option<Policy> {
    if !content.contains(POLICY_TYPE) {
        return None;
    }
    let content: serde_json::Value = serde_json::from_str(content).ok()?;
    let hint = Policy::from_json(content.get(POLICY_TYPE)?).ok()?;
    (!hint.is_empty()).then_some(hint)
}

/// In a room whose class needs a server that can read, nobody turns on encryption by accident.
async fn may_encrypt(house: &House, room: &OpenRoom<'_>) -> Result<(), Error> {
    let event = room.state(&StateEventType::from(POLICY_TYPE), "").await?;
    let of_room = event.map(|event| room_policy(event.content.get()));
    let class = house.policy.now().class_of(of_room.as_ref());
    if class.is_server_readable() && !house.options.policy.is_off {
        return Err(Error::forbidden(
            "This room's class needs photos that the server can read, to make them disappear and \
             keep them off phones. Choose the class clinical-e2ee first.",
        ));
    }
    Ok(())
}

fn may_keep(kind: &TimelineEventType) -> bool {
    matches!(kind, TimelineEventType::RoomAvatar | TimelineEventType::RoomMember)
        || matches!(kind.to_string().as_str(), "im.ponies.room_emotes" | "m.room.image_pack")
}

struct Linking<'a> {
    house: &'a House,
    room: RoomNid,
    number: EventNid,
    now_ms: u64,
}

impl Linking<'_> {
    async fn refer(
        &self,
        (media, row): (MediaNid, &MediaRow),
        (as_what, is_own): (Use, bool),
        asked: &Asked,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let class = match (as_what, is_own) {
            (Use::Kept, true) => {
                keep_key(self.house, media, row, commit).await?;
                self.add(media, LINK_KEPT, (0, &None), commit);
                return Ok(());
            }
            // Nobody keeps what somebody else has uploaded.
            (Use::Kept, false) => return Ok(()),
            (Use::Ornament, _) if is_kept(self.house, media).await? => return Ok(()),
            (Use::Content | Use::Ornament, true) => LINK_OWN,
            (Use::Content | Use::Ornament, false) => LINK_OTHER,
        };
        let deadline_ms = self.now_ms.saturating_add(asked.ttl_ms);
        self.add(media, class, (deadline_ms, &asked.hint), commit);
        if class == LINK_OWN && asked.policy.get(Field::InheritByHash) == Some(1) {
            self.bequeath(row, deadline_ms, commit).await?;
        }
        Ok(())
    }

    /// The event is about to be taken back for a file that was never here, under a number of its own: as when a
    /// file is gone before the event that shows it comes.
    async fn refer_afar(
        &self,
        files: Vec<Digest>,
        asked: &Asked,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let ended = self.house.ledger.newest().get_many(&ENDED_AFAR, &files).await?;
        // Where no policy speaks of photos, what others show stays; a later policy finds it here.
        let is_limited = asked.policy.get(Field::TtlMs).is_some();
        let lives_ms = asked.ttl_ms.saturating_add(AFAR_LATER_MS);
        let deadline_ms = match is_limited {
            // It was on its way for longer than the file lived.
            _ if ended.iter().any(Option::is_some) => self.now_ms,
            true => self.now_ms.saturating_add(lives_ms),
            false => u64::MAX,
        };
        let media = MediaNid(self.house.ledger.next_number());
        files.iter().for_each(|file| commit.put(&SHOWN_AFAR, &(*file, media), &()));
        let afar = Some(files.into_iter().map(ByteArray::from).collect());
        let room = Some(self.room.0);
        let link = LinkRow { room, redacted: None, hint: asked.hint.clone(), afar };
        self.add_link(media, LINK_OTHER, (deadline_ms, &link), commit);
        Ok(())
    }

    fn add(
        &self,
        media: MediaNid,
        class: u8,
        (deadline_ms, hint): (u64, &Option<String>),
        commit: &mut Commit,
    ) {
        let (room, hint) = (Some(self.room.0), hint.clone());
        let link = LinkRow { room, redacted: None, hint, afar: None };
        self.add_link(media, class, (deadline_ms, &link), commit);
    }

    fn add_link(
        &self,
        media: MediaNid,
        class: u8,
        (deadline_ms, link): (u64, &LinkRow),
        commit: &mut Commit,
    ) {
        commit.put(&MEDIA_LINKS, &(media, class, deadline_ms, self.number.0), link);
        let of_room = RoomMediaRow { class, deadline_ms, at_ms: self.now_ms };
        commit.put(&ROOM_MEDIA, &(self.room, self.number, media), &of_room);
        if class != LINK_KEPT && deadline_ms != u64::MAX {
            commit.put(&MEDIA_DUE, &(deadline_ms, media), &());
        }
    }

    async fn unbound(&self, device: DeviceNid) -> Result<Vec<(MediaNid, UnboundRow)>, Error> {
        type Unbound = ((DeviceNid, MediaNid), UnboundRow);
        let view = self.house.ledger.newest();
        let (rows, _) = view.scan(&MEDIA_UNBOUND, &device, Direction::Forward, UNBOUND_MAX).await?;
        Ok(rows.into_iter().map(|((_, media), row): Unbound| (media, row)).collect())
    }

    /// Binds what the device has uploaded to this encrypted event.
    fn guess(
        &self,
        device: DeviceNid,
        unbound: Vec<(MediaNid, UnboundRow)>,
        asked: &Asked,
        commit: &mut Commit,
    ) {
        for (media, row) in unbound {
            let is_over = self.now_ms.saturating_sub(row.at_ms) > BINDING_MS;
            if is_over {
                commit.delete(&MEDIA_UNBOUND, &(device, media));
            } else if !row.bound {
                commit.put(
                    &MEDIA_UNBOUND,
                    &(device, media),
                    &UnboundRow { bound: true, ..row.clone() },
                );
            }
            // The first event counts however late it comes; later ones only soon after the upload.
            if !is_over || !row.bound {
                let deadline_ms = self.now_ms.saturating_add(asked.ttl_ms);
                self.add(media, LINK_GUESSED, (deadline_ms, &asked.hint), commit);
            }
        }
    }

    /// Applies a new limit to what the room shows already. It can only make deadlines earlier: one that
    /// was promised is kept.
    async fn tighten(&self, ttl_ms: u64, commit: &mut Commit) -> Result<(), Error> {
        let end = (RoomNid(self.room.0 + 1), EventNid(0), MediaNid(0));
        let mut from = (self.room, EventNid(0), MediaNid(0));
        let mut met = 0;
        loop {
            let (rows, more): (Vec<RoomMedia>, _) = self
                .house
                .ledger
                .newest()
                .scan_between(&ROOM_MEDIA, (&from, &end), Direction::Forward, PAGE)
                .await?;
            met += rows.len();
            if met > TIGHTENED_MAX {
                return Err(Error::too_large(
                    "This room shows more than 50000 living files: its policy cannot be changed now.",
                ));
            }
            let Some(((room, event, media), _)) = rows.last() else { return Ok(()) };
            from = (*room, *event, MediaNid(media.0 + 1));
            for (key, row) in rows {
                self.tighten_one(key, &row, ttl_ms, commit).await?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn tighten_one(
        &self,
        (room, event, media): (RoomNid, EventNid, MediaNid),
        row: &RoomMediaRow,
        ttl_ms: u64,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let deadline_ms = row.at_ms.saturating_add(ttl_ms);
        if row.class == LINK_KEPT || deadline_ms >= row.deadline_ms {
            return Ok(());
        }
        let before = (media, row.class, row.deadline_ms, event.0);
        let known = self.house.ledger.get(&MEDIA_LINKS, &before).await?;
        let (hint, afar) = known.map_or((None, None), |row| (row.hint, row.afar));
        commit.delete(&MEDIA_LINKS, &before);
        let link = LinkRow { room: Some(room.0), redacted: None, hint, afar };
        commit.put(&MEDIA_LINKS, &(media, row.class, deadline_ms, event.0), &link);
        commit.put(
            &ROOM_MEDIA,
            &(room, event, media),
            &RoomMediaRow { deadline_ms, ..row.clone() },
        );
        commit.put(&MEDIA_DUE, &(deadline_ms, media), &());
        Ok(())
    }

    /// The same bytes sent again end no later.
    async fn bequeath(
        &self,
        row: &MediaRow,
        deadline_ms: u64,
        commit: &mut Commit,
    ) -> Result<(), Error> {
        let Some(content) = row.content.as_deref().and_then(|bytes| Digest::try_from(bytes).ok())
        else {
            return Ok(());
        };
        let known = self.house.ledger.get(&INHERITED, &content).await?;
        if known.is_none_or(|known| deadline_ms < known) {
            commit.put(&INHERITED, &content, &deadline_ms);
        }
        Ok(())
    }

    /// Reads a policy that is being set. What people of this server set must be kept as it is written;
    /// what it asks for in vain, because the house is stricter, is put on record.
    async fn new_policy(
        &self,
        room: &OpenRoom<'_>,
        pdu: &Pdu,
        commit: &mut Commit,
    ) -> Result<Policy, Error> {
        let content = pdu.content.get();
        if !self.house.is_ours(&pdu.sender) {
            return Ok(room_policy(content));
        }
        let policy = Policy::parse(content).map_err(Error::bad_json)?;
        let is_readable = policy.class.is_some_and(RoomClass::is_server_readable);
        if is_readable && room.state(&StateEventType::RoomEncryption, "").await?.is_some() {
            return Err(Error::bad_json(
                "This room is encrypted: its class can be `clinical-e2ee`, not one that the server \
                 must be able to read.",
            ));
        }
        let held = self.house.policy_in(None, Some(&policy));
        let ignored: Vec<_> = held.ignored(&policy).map(Field::path).collect();
        if !ignored.is_empty() {
            let (who, fields) = (&pdu.sender, ignored.join(" "));
            commit.also(policy::ignored(who, room.room_id.as_str(), &fields));
        }
        Ok(policy)
    }

    /// The event `replaced` no longer shows its avatar or pack.
    async fn release(&self, replaced: EventNid, commit: &mut Commit) -> Result<(), Error> {
        for ((room, event, media), row) in of_event(self.house, self.room, replaced).await? {
            if row.class == LINK_KEPT {
                commit.delete(&ROOM_MEDIA, &(room, event, media));
                commit.delete(&MEDIA_LINKS, &(media, LINK_KEPT, 0, event.0));
                commit.put(&MEDIA_DUE, &(self.now_ms, media), &());
            }
        }
        Ok(())
    }
}

type RoomMedia = ((RoomNid, EventNid, MediaNid), RoomMediaRow);

async fn of_event(house: &House, room: RoomNid, event: EventNid) -> Result<Vec<RoomMedia>, Error> {
    let view = house.ledger.newest();
    let (rows, _) = view.scan(&ROOM_MEDIA, &(room, event), Direction::Forward, PAGE).await?;
    Ok(rows)
}

async fn is_avatar_of(
    house: &House,
    media: MediaNid,
    user: Option<UserNid>,
) -> Result<bool, Error> {
    let Some(user) = user else { return Ok(false) };
    let link = (media, LINK_KEPT, 0, user.0);
    Ok(house.ledger.get(&MEDIA_LINKS, &link).await?.is_some())
}

async fn is_kept(house: &House, media: MediaNid) -> Result<bool, Error> {
    Ok(house.ledger.get(&MEDIA_KEPT, &media).await?.is_some())
}

/// Wraps a file's data key by the key that is kept, since the key of its day will go.
async fn keep_key(
    house: &House,
    media: MediaNid,
    row: &MediaRow,
    commit: &mut Commit,
) -> Result<(), Error> {
    if is_kept(house, media).await? {
        return Ok(());
    }
    let key = house.blobs.unwrap(row.key_day, media.0, &row.wrapped_key).await?;
    let Some(key) = key else { return Ok(()) };
    let (wrapped, in_use) = house.blobs.wrap(KEPT, media.0, &key).await?;
    commit.put(&MEDIA_KEPT, &media, &wrapped.into());
    commit.hold(in_use);
    Ok(())
}

/// A user has a new avatar, and perhaps had another. To be called in the commit that changes it, with
/// the `mxc://` URIs before and after.
///
/// # Errors
///
/// If the store fails.
pub(crate) async fn avatar_changed(
    house: &House,
    user: UserNid,
    (before, after): (Option<&str>, Option<&str>),
    commit: &mut Commit,
) -> Result<(), Error> {
    if before == after {
        return Ok(());
    }
    let server_name = house.server_name.as_str();
    let id = |uri: Option<&str>| {
        uri.and_then(|uri| policy::media_id_of(uri, server_name).map(str::to_owned))
    };
    if let Some(media_id) = id(before)
        && let Some((media, _)) = row_of(house, &media_id).await?
    {
        commit.delete(&MEDIA_LINKS, &(media, LINK_KEPT, 0, user.0));
        commit.put(&MEDIA_DUE, &(house.clock.now_ms(), media), &());
    }
    if let Some(media_id) = id(after)
        && let Some((media, row)) = row_of(house, &media_id).await?
        && row.stage == Stage::Present
        && row.uploader == user.0
    {
        keep_key(house, media, &row, commit).await?;
        let link = LinkRow { room: None, redacted: None, hint: None, afar: None };
        commit.put(&MEDIA_LINKS, &(media, LINK_KEPT, 0, user.0), &link);
    }
    Ok(())
}

/// An event is being redacted. To be called in the commit that prunes it. A file that its uploader
/// showed in it, and that nothing else shows, goes with it.
///
/// # Errors
///
/// If the store fails.
pub async fn unlink(
    house: &House,
    room: RoomNid,
    event: EventNid,
    commit: &mut Commit,
) -> Result<(), Error> {
    let now_ms = house.clock.now_ms();
    for (key, row) in of_event(house, room, event).await? {
        let media = key.2;
        let link = (media, row.class, row.deadline_ms, event.0);
        commit.delete(&ROOM_MEDIA, &key);
        match row.class {
            LINK_OWN => {
                // The deadline it set stays: taking an event back must not make a file live longer.
                let hint = house.ledger.get(&MEDIA_LINKS, &link).await?.and_then(|row| row.hint);
                let (room, redacted) = (Some(room.0), Some(true));
                let redacted = LinkRow { room, redacted, hint, afar: None };
                commit.put(&MEDIA_LINKS, &link, &redacted);
                if !is_shown_elsewhere(house, media, event).await? {
                    condemn(house, media, "redacted", commit).await?;
                }
            }
            LINK_KEPT | LINK_OTHER => {
                if let Some(row) = house.ledger.get(&MEDIA_LINKS, &link).await? {
                    forget_afar(media, &row, commit);
                }
                commit.delete(&MEDIA_LINKS, &link);
                commit.put(&MEDIA_DUE, &(now_ms, media), &());
            }
            // Only a guess: what the event was about is not known.
            _ => {}
        }
    }
    Ok(())
}

async fn is_shown_elsewhere(
    house: &House,
    media: MediaNid,
    event: EventNid,
) -> Result<bool, Error> {
    type Link = ((MediaNid, u8, u64, u64), LinkRow);
    let view = house.ledger.newest();
    let (links, more): (Vec<Link>, _) =
        view.scan(&MEDIA_LINKS, &media, Direction::Forward, OTHERS_MAX).await?;
    let shows = |((_, class, _, by), row): &Link| {
        *class != LINK_GUESSED && *by != event.0 && row.redacted != Some(true)
    };
    Ok(more || links.iter().any(shows))
}

/// The name of a row's blob, if it has one.
pub(super) fn blob_of(row: &MediaRow) -> Option<BlobName> {
    BlobName::parse(&row.blob)
}

/// Removes all references to a file from the store, a page at a time; returns the events that showed
/// it and are not redacted.
pub(super) async fn forget_links(
    house: &House,
    media: MediaNid,
    commit: &mut Commit,
) -> Result<Vec<(RoomNid, EventNid)>, Error> {
    let mut shown = Vec::new();
    let mut from = (media, 0_u8, 0_u64, 0_u64);
    let end = (MediaNid(media.0 + 1), 0_u8, 0_u64, 0_u64);
    loop {
        type Link = ((MediaNid, u8, u64, u64), LinkRow);
        let view = house.ledger.newest();
        let (links, more): (Vec<Link>, _) =
            view.scan_between(&MEDIA_LINKS, (&from, &end), Direction::Forward, PAGE).await?;
        for (key, row) in links {
            let (_, class, _, by) = key;
            from = (key.0, key.1, key.2, key.3 + 1);
            commit.delete(&MEDIA_LINKS, &key);
            forget_afar(media, &row, commit);
            let Some(room) = row.room.map(RoomNid) else { continue };
            commit.delete(&ROOM_MEDIA, &(room, EventNid(by), media));
            if matches!(class, LINK_OWN | LINK_OTHER) && row.redacted != Some(true) {
                shown.push((room, EventNid(by)));
            }
        }
        if !more {
            return Ok(shown);
        }
    }
}

/// Takes back, soon after the commit, the events that have links under a number that no file of ours has; how
/// many.
pub(super) async fn take_back_afar(
    house: &House,
    media: MediaNid,
    commit: &mut Commit,
) -> Result<usize, Error> {
    let shown = forget_links(house, media, commit).await?;
    for (room, event) in &shown {
        commit.put(&MEDIA_REDACTIONS, event, &RedactionRow { room: room.0, media: None });
    }
    Ok(shown.len())
}

fn forget_afar(media: MediaNid, row: &LinkRow, commit: &mut Commit) {
    for file in row.afar.iter().flatten() {
        commit.delete(&SHOWN_AFAR, &(**file, media));
    }
}

/// Whether a file is there at all.
pub(super) async fn present(house: &House, media: MediaNid) -> Result<Option<MediaRow>, Error> {
    Ok(house.ledger.get(&MEDIA, &media).await?.filter(|row| row.stage == Stage::Present))
}
