//! Joining a room that other servers hold ([spec]).
//!
//! What comes back from the server that lets us in is checked like everything else: a state event that is
//! not signed, or that what it names does not allow, is no part of the room. A room with a server in it
//! that this one has nothing to do with is left again at once.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#joining-rooms

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use appliance_ledger::keyspaces::{CALLS, ROOM_IDS, ROOMS};
use appliance_ledger::rows::RoomRow;
use appliance_model::ruma::events::room::member::{MembershipState, RoomMemberEventContent};
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{
    OwnedEventId, OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId,
};
use appliance_model::{Caller, Error, Kind, Pdu, RoomNid};
use appliance_rules::inbound::{Standing, judge_by_auth_events};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fetch::{Errand, Fetched, Source};
use super::line::Ask;
use super::receive::Inflow;
use super::resident::arrival_of;
use crate::rooms::arrive::{Arrival, Sending};
use crate::rooms::build::{Draft, Place, content_from};
use crate::rooms::room::membership_of;
use crate::rooms::{OpenRoom, ROOM_VERSIONS, Rooms, rules_of};

/// Servers that are asked in turn: each may take as long as the line lets it.
const SERVERS_ASKED_MAX: usize = 8;

/// "auth_events … Must contain less than or equal to 10 events" of a member event's template.
const AUTH_EVENTS_MAX: usize = 10;

/// What another server says a member event should look like.
#[derive(Deserialize)]
struct Template {
    #[serde(default)]
    room_version: Option<RoomVersionId>,
    event: TemplateEvent,
}

#[derive(Deserialize)]
struct TemplateEvent {
    #[serde(default)]
    prev_events: Vec<OwnedEventId>,
    #[serde(default)]
    auth_events: Vec<OwnedEventId>,
    depth: u64,
    #[serde(default)]
    content: TemplateContent,
}

#[derive(Default, Deserialize)]
struct TemplateContent {
    #[serde(default)]
    join_authorised_via_users_server: Option<OwnedUserId>,
}

/// A member event made from another server's template, and the version of its room.
pub(super) struct Made {
    pub pdu: Pdu,
    pub version: RoomVersionId,
    pub rules: RoomVersionRules,
}

#[derive(Deserialize)]
struct Joined {
    state: Vec<Box<RawValue>>,
    auth_chain: Vec<Box<RawValue>>,
    #[serde(default)]
    event: Option<Box<RawValue>>,
}

/// Why none of several servers lets somebody in.
#[derive(Default)]
pub(super) struct Refusals(Option<Error>);

impl Refusals {
    /// One more. What a server that was reached said tells more than that another was not.
    pub fn add(&mut self, error: Error) {
        if self.0.as_ref().is_none_or(|known| known.kind == Kind::RemoteUnavailable) {
            self.0 = Some(error);
        }
    }

    /// The one that tells most.
    pub fn said(self) -> Error {
        self.0.unwrap_or_else(|| Error::not_found("This server does not know that room."))
    }
}

impl Rooms {
    /// The servers to ask about a room, those the caller named first.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`] if this server has nothing to do with any of them, [`Kind::NotFound`] if there
    /// are none.
    pub(crate) async fn ways_in(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        named: &[OwnedServerName],
    ) -> Result<Vec<OwnedServerName>, Error> {
        let mut ways = named.to_vec();
        if let Some(room) = self.house.ledger.room(room_id).await? {
            let call = self.house.ledger.get(&CALLS, &(room, caller.user)).await?;
            ways.extend(call.and_then(|call| call.via.try_into().ok()));
            let open = self.enter(room_id).await?;
            ways.extend(open.servers());
        }
        ways.extend(room_id.server_name().map(ToOwned::to_owned));
        let mut seen = BTreeSet::from([self.house.server_name.clone()]);
        ways.retain(|server| seen.insert(server.clone()));
        let refused = ways.iter().find(|server| !self.line.allows(server)).cloned();
        ways.retain(|server| self.line.allows(server));
        ways.truncate(SERVERS_ASKED_MAX);
        match (ways.is_empty(), refused) {
            (false, _) => Ok(ways),
            (true, Some(server)) => {
                Err(Error::forbidden(format!("This server does not exchange rooms with {server}.")))
            }
            (true, None) => Err(Error::not_found("This server does not know that room.")),
        }
    }

    /// Joins through other servers, one after the other until one lets the caller in.
    pub(crate) async fn join_elsewhere(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), Error> {
        let turn = self.receiving.enter(arrival_of(self, room_id)).await;
        // Somebody else of ours may have got in while we waited: then the room is here, and what it
        // holds must not be replaced by what another server tells of it.
        if let Some(room) = self.house.ledger.room(room_id).await?
            && self.is_resident(room).await?
        {
            drop(turn);
            return Box::pin(self.join_resident(caller, room_id, via, reason.into())).await;
        }
        self.join_through_any(caller, room_id, via, reason).await
    }

    /// Joins a room that this server is in, where only somebody of another server may let the caller in.
    pub(crate) async fn join_by_voucher(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), Error> {
        let _turn = self.receiving.enter(arrival_of(self, room_id)).await;
        self.join_through_any(caller, room_id, via, reason).await
    }

    async fn join_through_any(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        via: &[OwnedServerName],
        reason: Option<String>,
    ) -> Result<(), Error> {
        let ways = self.ways_in(caller, room_id, via).await?;
        let mut content = self.joining_content(caller).await?;
        content.reason = reason;
        let mut refusals = Refusals::default();
        for server in ways {
            match self.join_through(&server, caller, room_id, content.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(kind = "federation.join", %server, room.id = %room_id, %error,
                        "a room could not be joined through a server");
                    refusals.add(error);
                }
            }
        }
        Err(refusals.said())
    }

    /// Who was in the room before has left it with an event that the other server may not have yet. A
    /// return that does not build on that event stands beside it, and wherever the leave wins they are out
    /// without knowing.
    async fn settle_before_return(
        &self,
        server: &ServerName,
        room_id: &RoomId,
    ) -> Result<(), Error> {
        let Some(room) = self.house.ledger.room(room_id).await? else { return Ok(()) };
        if self.line.servers()?.settle(server, room).await? {
            return Ok(());
        }
        let why =
            "What was said in that room before has not reached the other server yet. Try again.";
        Err(Error::new(Kind::RemoteUnavailable, why))
    }

    /// Asks for a template and makes the event of it.
    pub(super) async fn made_by(
        &self,
        server: &ServerName,
        (user_id, room_id): (&UserId, &RoomId),
        mut content: RoomMemberEventContent,
        after_ms: u64,
    ) -> Result<Made, Error> {
        if content.membership != MembershipState::Leave {
            self.settle_before_return(server, room_id).await?;
        }
        let (room_id, user_id) = (room_id.to_owned(), user_id.to_owned());
        let versions = ROOM_VERSIONS.to_vec();
        let (asked, asker) = (room_id.clone(), user_id.clone());
        let ask = match content.membership {
            MembershipState::Join => Ask::MakeJoin { room_id: asked, user_id: asker, versions },
            MembershipState::Knock => Ask::MakeKnock { room_id: asked, user_id: asker, versions },
            _ => Ask::MakeLeave { room_id: asked, user_id: asker },
        };
        let template: Template = self.ask(server, ask).await?;
        let version = match template.room_version {
            Some(version) => version,
            // Only `make_leave` may leave it out; then the room is known from its invite.
            None => self.known(&room_id).await?.1,
        };
        if !ROOM_VERSIONS.contains(&version) {
            let unknown = format!("This server does not know room version {version}.");
            return Err(Error::new(Kind::UnsupportedRoomVersion, unknown));
        }
        let rules = rules_of(&version)?;
        let TemplateEvent { prev_events, auth_events, depth, content: theirs } = template.event;
        if rules.authorization.restricted_join_rule {
            content.join_authorized_via_users_server = theirs.join_authorised_via_users_server;
        }
        let kind = TimelineEventType::RoomMember;
        let draft = Draft::state(user_id.clone(), kind, user_id.as_str(), content_from(&content)?);
        let newest_ms = self.newest_date_ms((&user_id, &room_id), &rules).await?;
        let draft = draft.after_ms(after_ms.max(newest_ms), &self.house);
        let draft = self.dated_after_known(draft, &auth_events, &rules).await?;
        let place = Place {
            room_id: Some(&room_id),
            prev_events: &prev_events,
            auth_events: &auth_events,
            depth,
        };
        let pdu = draft.sign(&self.house, &rules, &place)?;
        self.note_date((&user_id, &room_id), pdu.origin_server_ts.0.into()).await?;
        Ok(Made { pdu, version, rules })
    }

    /// A member event comes after the one that it replaces, if this server has that: a leave of its own, say.
    async fn dated_after_known(
        &self,
        draft: Draft,
        auth_events: &[OwnedEventId],
        rules: &RoomVersionRules,
    ) -> Result<Draft, Error> {
        let member = draft.state_key.clone().map(|key| (StateEventType::RoomMember, key));
        for id in auth_events.iter().take(AUTH_EVENTS_MAX) {
            let Some(number) = self.house.ledger.event_number(id).await? else { continue };
            let known = self.pdu(number, rules).await?;
            if member.is_some() && known.state_pair() == member {
                return Ok(draft.after(&known, &self.house));
            }
        }
        Ok(draft)
    }

    async fn join_through(
        &self,
        server: &ServerName,
        caller: &Caller,
        room_id: &RoomId,
        content: RoomMemberEventContent,
    ) -> Result<(), Error> {
        let made = self.made_by(server, (&caller.user_id, room_id), content, 0).await?;
        let doubt = self.doubt(server, (&caller.user_id, room_id), &made.pdu).await?;
        let dated_ms = made.pdu.origin_server_ts.0.into();
        let event = String::from_utf8_lossy(&made.pdu.json).into_owned();
        let (asked, event_id) = (room_id.to_owned(), made.pdu.event_id.clone());
        let joined: Joined =
            match self.ask(server, Ask::SendJoin { room_id: asked, event_id, event }).await {
                Ok(joined) => joined,
                Err(error) => {
                    // A refusal says what became of it; silence does not.
                    if error.kind != Kind::RemoteUnavailable {
                        self.no_doubt(&doubt).await?;
                    }
                    return Err(error);
                }
            };
        let inside = self.move_in_through(server, caller, room_id, (made, joined)).await;
        let mut is_known = inside.is_ok();
        // To the others we are in. From what is forbidden here: out again before anything else. What cannot be
        // had now may be had at the next attempt, which needs no second invite; else it is taken back later.
        if let Err(error) = inside.as_ref()
            && error.kind == Kind::Forbidden
        {
            let out = self.leave_through(server, &caller.user_id, room_id, (None, dated_ms)).await;
            is_known = out.is_ok();
            tracing::warn!(kind = "federation.left_at_once", room.id = %room_id, %server, %error,
                left = is_known, "a room was left at once");
        }
        if is_known {
            self.no_doubt(&doubt).await?;
        }
        inside
    }

    /// Takes in a room as another server tells it, which has let one of our users in.
    ///
    /// # Errors
    ///
    /// Why this server will have nothing to do with it.
    async fn move_in_through(
        &self,
        server: &ServerName,
        caller: &Caller,
        room_id: &RoomId,
        (made, joined): (Made, Joined),
    ) -> Result<(), Error> {
        if let Some(stranger) = self.stranger_among(&joined) {
            tracing::warn!(kind = "federation.stranger", room.id = %room_id, %stranger,
                "a server off the list is in a room that was joined");
            return Err(Error::forbidden(format!(
                "{stranger} is in that room, and this server has nothing to do with it."
            )));
        }
        let shown = joined.state.iter().map(|raw| &**raw);
        self.check_shared_elsewhere(server, shown)?;
        let errand = Errand::begin(&self.house);
        let source = Source::new(server, room_id, &made.rules, &errand);
        if let Some(room) = self.house.ledger.room(room_id).await?
            && self.is_resident(room).await?
        {
            // The room is here: the join is one event more, and what came with it is known.
            let pdu = self.countersigned(source, made.pdu, joined.event).await?;
            return self.take_in_own_join(source, pdu).await;
        }
        let state = self.checked_all(source, joined.state).await?;
        let mut events = self.checked_all(source, joined.auth_chain).await?;
        let is_unsure = [&state, &events].into_iter().any(|all| errand.rests_on_unchecked(all));
        if errand.unchecked() > 0 || is_unsure {
            // A member of a server whose keys cannot be had would be missing here for good, and all that
            // they say be rejected.
            tracing::warn!(kind = "federation.keys_missing", room.id = %room_id, %server,
                "a server in a room that was joined cannot be asked for its keys");
            let why = "A server in that room cannot be reached for its keys now. Try again later.";
            return Err(Error::new(Kind::RemoteUnavailable, why));
        }
        let mut state_ids: Vec<_> = state.keys().cloned().collect();
        state_ids.sort_unstable();
        events.extend(state);
        let pdu = self.countersigned(source, made.pdu, joined.event).await?;
        let mut open = self.enter_new(room_id, &made.version).await?;
        open.move_in(pdu, (state_ids, events), &made.version, server).await?;
        let room = open.room;
        if let Some(commit) = open.commit_mut() {
            commit.delete(&CALLS, &(room, caller.user));
        }
        open.leave().await?;
        Ok(())
    }

    async fn take_in_own_join(&self, source: Source<'_>, pdu: Pdu) -> Result<(), Error> {
        let mut inflow = Inflow::new(self, source);
        // Who let us in has told the others.
        inflow.sending = Sending::Nobody;
        let standing = inflow.live(pdu).await?;
        inflow.flush().await?;
        match standing {
            Standing::Accepted => Ok(()),
            Standing::SoftFailed(why) | Standing::Rejected(why) => Err(Error::forbidden(why)),
        }
    }

    /// "event: the membership event as signed by the resident server", needed where somebody vouched.
    async fn countersigned(
        &self,
        source: Source<'_>,
        own: Pdu,
        theirs: Option<Box<RawValue>>,
    ) -> Result<Pdu, Error> {
        let Some(theirs) = theirs else { return Ok(own) };
        match self.checked(&theirs, source.room_id, source.rules).await? {
            Ok(pdu) if pdu.event_id == own.event_id => Ok(pdu),
            _ => Ok(own),
        }
    }

    /// A server that answers for any of these events, has somebody in the room, or is let in by name, and is
    /// off the list.
    fn stranger_among(&self, joined: &Joined) -> Option<OwnedServerName> {
        #[derive(Deserialize)]
        struct Seen {
            sender: OwnedUserId,
            #[serde(rename = "type", default)]
            kind: String,
            #[serde(default)]
            state_key: Option<String>,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            #[serde(default)]
            membership: Option<String>,
            /// Of any form: what cannot be read here must not hide who wrote it.
            #[serde(default)]
            allow: serde_json::Value,
        }
        let check = |raw: &RawValue, is_state: bool| {
            let seen: Seen = serde_json::from_str(raw.get()).ok()?;
            let mut servers = vec![seen.sender.server_name().to_owned()];
            let is_in = matches!(seen.content.membership.as_deref(), Some("join" | "invite"));
            if let Some(target) = seen.state_key.filter(|_| is_in && is_state)
                && let Ok(target) = UserId::parse(target)
            {
                servers.push(target.server_name().to_owned());
            }
            if is_state && seen.kind == "m.room.server_acl" {
                // Whoever is let in by name is as good as there. `*` and its like name nobody.
                let names = seen.content.allow.as_array().into_iter().flatten();
                let names = names.filter_map(serde_json::Value::as_str);
                let names = names.filter_map(|name| ServerName::parse(name).ok());
                // Access lists know hosts, without the ports that server names may have.
                let own = self.house.server_name.host();
                let is_known = |host: &str| host == own || self.house.roll.allows_host(host);
                servers.extend(names.filter(|name| !is_known(name.host())));
            }
            servers.into_iter().find(|server| !self.is_allowed(server))
        };
        let state = joined.state.iter().find_map(|raw| check(raw, true));
        state.or_else(|| joined.auth_chain.iter().find_map(|raw| check(raw, false)))
    }

    /// Enters a room, which may be one this server does not know yet.
    pub(super) async fn enter_new(
        &self,
        room_id: &RoomId,
        version: &RoomVersionId,
    ) -> Result<OpenRoom<'_>, Error> {
        if self.house.ledger.room(room_id).await?.is_some() {
            let (_, known) = self.known(room_id).await?;
            if known != *version {
                return Err(Error::new(
                    Kind::IncompatibleRoomVersion { room_version: known.to_string() },
                    "That server says the room has another version than it has.",
                ));
            }
            return self.enter(room_id).await;
        }
        let ledger = &self.house.ledger;
        let room = RoomNid(ledger.next_number());
        let mut open = self.enter_unknown(room, room_id, version).await?;
        let permit = appliance_rules::inbound::may_keep_outliers("", room_id);
        let mut commit = open.begin(permit);
        let row = RoomRow { room_id: room_id.to_string(), version: version.to_string() };
        commit.put(&ROOM_IDS, &ledger.room_digest(room_id), &room.0);
        commit.put(&ROOMS, &room, &row);
        open.resume(commit);
        Ok(open)
    }
}

impl OpenRoom<'_> {
    /// Makes a room ours: its state, and the join of one of our users.
    async fn move_in(
        &mut self,
        pdu: Pdu,
        (state, events): (Vec<OwnedEventId>, Fetched),
        version: &RoomVersionId,
        server: &ServerName,
    ) -> Result<(), Error> {
        let room_id = self.room_id.clone();
        let refused = |why: &str| {
            tracing::warn!(kind = "federation.join", room.id = %room_id, %server, why,
                "the state that came with a join cannot be used");
            Error::new(
                Kind::RemoteUnavailable,
                "The room's state, as that server tells it, is wrong.",
            )
        };
        let permit = appliance_rules::inbound::may_keep_outliers(server.as_str(), &self.room_id);
        let mut commit = self.begin(permit);
        self.keep_outliers(events, &mut commit).await?;
        let root = self.root_of(&state, &pdu.event_id, &mut commit).await?;
        let create = self.entry_at(root, &StateEventType::RoomCreate, "").await?;
        if create.is_none_or(|(_, create)| !is_of_version(&create, version)) {
            return Err(refused("the state has no create event of the room's version"));
        }
        let allowing: HashMap<_, Arc<Pdu>> = self.allowing(&pdu).await?;
        let by_auth = judge_by_auth_events(&pdu, &allowing, &self.rules.authorization);
        if let Err(why) = by_auth.and(self.judged_at(root, &pdu).await?) {
            return Err(refused(&why));
        }
        if membership_of(&pdu) != MembershipState::Join {
            return Err(refused("what was signed is no join"));
        }
        commit.also(Standing::Accepted.permit(&pdu));
        // What we knew when our last user left is the past; what is between is a gap.
        self.head.extremities.clear();
        let known = self.known(&pdu.event_id).await?;
        let arrival = Arrival {
            number: known.map(|known| known.number),
            missing: pdu.prev_events.clone(),
            sending: Sending::Nobody,
            ..Arrival::at(root)
        };
        self.append(&Arc::new(pdu), arrival, &mut commit).await?;
        self.resume(commit);
        Ok(())
    }
}

fn is_of_version(create: &Pdu, version: &RoomVersionId) -> bool {
    #[derive(Deserialize)]
    struct Content {
        room_version: Option<String>,
    }
    // "room_version … Defaults to "1" if the key does not exist."
    let content = serde_json::from_str::<Content>(create.content.get());
    content.is_ok_and(|content| content.room_version.as_deref().unwrap_or("1") == version.as_str())
}
