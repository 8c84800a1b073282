//! One room of a sliding sync answer: what is new of it, or all of it when it is new.

use std::collections::BTreeSet;

use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Root, membership};
use appliance_model::ruma::events::StateEventType;
use appliance_model::{Error, EventNid, Position, RoomNid};

use super::super::look::{Look, Shown, Span, Wish, place};
use super::super::token::timeline_token;
use super::super::wait::{News, RoomNews};
use super::super::write::List;
use super::answer::{Hero, RoomAnswer};
use super::connection::{Face, Sent, Upto, Wishes};
use super::request::StateWish;
use super::room_list::face_of;
use super::state::StateNews;

/// A room to be looked at.
pub(super) struct Subject<'a> {
    pub room: RoomNid,
    pub row: &'a MembershipRow,
    /// What to tell.
    pub wishes: &'a Wishes,
    pub limit: usize,
    pub is_dm: bool,
    /// What was told.
    pub sent: Option<&'a Sent>,
    /// What may have changed since, if all before was told.
    pub news: Option<RoomNews>,
    /// The connection's name.
    pub connection: u64,
}

/// What a room is told with, and what the client knows of it then.
pub(super) struct Told {
    /// None if there is nothing to tell.
    pub answer: Option<RoomAnswer>,
    /// So many of the newest events are known.
    pub limit: usize,
    /// Where the timeline begins, if the room is new to the client.
    pub start: Option<i64>,
}

impl Subject<'_> {
    fn face(&self) -> Face {
        face_of(self.row)
    }

    /// Up to where it was told, if the client can go on from there.
    fn since(&self, live: Option<Position>) -> Option<Position> {
        let sent = self.sent.filter(|sent| sent.face == self.face())?;
        let since = sent.events.position(live)?;
        let anew = match self.face() {
            // Left and joined again: the client has dropped the room meanwhile.
            Face::Joined => self.row.since > since.0,
            Face::Invited => self.row.position > since.0,
            Face::Left => false,
        };
        Some(since).filter(|_| !anew)
    }

    fn wants_lazy_members(&self) -> bool {
        self.wishes.iter().any(|wish| wish.lazy_members)
    }
}

impl Look<'_> {
    /// What there is to tell of a room.
    pub(super) async fn tell(&self, subject: &Subject<'_>) -> Result<Told, Error> {
        let limit = subject.sent.map_or(0, |sent| sent.limit);
        let nothing = Told { answer: None, limit, start: None };
        match (subject.face(), subject.since(self.since)) {
            (Face::Joined, None) => self.tell_all(subject).await,
            (Face::Joined, Some(since)) => self.tell_news(subject, since).await,
            (Face::Invited, None) => {
                let answer = Some(self.tell_outsider(subject).await?);
                Ok(Told { answer, limit: 0, start: None })
            }
            (Face::Left, since) if since.is_none_or(|since| since.0 < subject.row.position) => {
                self.tell_leaver(subject).await
            }
            _ => Ok(nothing),
        }
    }

    /// A room that the client has not seen.
    async fn tell_all(&self, subject: &Subject<'_>) -> Result<Told, Error> {
        let (room, limit) = (subject.room, subject.limit);
        let span = Span { since: None, upto: self.upto };
        let shown = self.shown(room, &span, &Wish { limit, filter: None }).await?;
        let mut state = self.wished_state(room, shown.state_after, subject.wishes).await?;
        if subject.wants_lazy_members() {
            state.extend(self.needed_members(room, &shown, None, subject.connection).await?);
        }
        let mut answer = self.with_events(subject, &shown, &state).await?;
        answer.initial = true;
        answer.is_dm = Some(true).filter(|_| subject.is_dm);
        self.add_name(room, shown.state_after, &mut answer).await?;
        self.add_avatar(room, shown.state_after, &mut answer).await?;
        answer.avatar = answer.avatar.filter(Option::is_some);
        self.add_people(room, shown.state_after, &mut answer).await?;
        answer.name = answer.name.filter(Option::is_some);
        // What is not limited begins with the room.
        let known = if shown.limited { limit } else { usize::MAX };
        Ok(Told { answer: Some(answer), limit: known, start: Some(shown.start) })
    }

    /// A room that the client knows up to `since`.
    async fn tell_news(&self, subject: &Subject<'_>, since: Position) -> Result<Told, Error> {
        let Subject { room, limit, sent: Some(sent), .. } = *subject else {
            return self.tell_all(subject).await;
        };
        let may_have = |pick: fn(&RoomNews) -> News| {
            let news = subject.news.as_ref();
            news.map_or(sent.events != Upto::Live, |news| pick(news) != News::None)
        };
        let (timeline_news, own_news) =
            (may_have(|news| news.timeline), may_have(|news| news.own_receipts));
        let wider =
            !std::sync::Arc::ptr_eq(subject.wishes, &sent.wishes) && *subject.wishes != sent.wishes;
        let expanded = limit > sent.limit;
        let dm_changed = subject.is_dm != sent.is_dm;
        if !(timeline_news || own_news || wider || expanded || dm_changed) {
            return Ok(Told { answer: None, limit: sent.limit, start: None });
        }
        // "If the timeline_limit has increased … send down the latest N events even if some of the
        // events have previously been sent."
        let from = Some(since).filter(|_| !expanded);
        let wish = Wish { limit, filter: None };
        let shown = self.shown(room, &Span { since: from, upto: self.upto }, &wish).await?;
        let before = self.state_at(room, since).await?;
        let roots = (before, shown.state_after);
        let StateNews { mut events, gone, name_changed, avatar_changed, members_changed } =
            self.changed_state(room, roots, subject.wishes).await?;
        if wider {
            events.extend(self.added_state(subject, &shown, &sent.wishes).await?);
        }
        if subject.wants_lazy_members() {
            // An expanded timeline has no gap where it reaches back to what was known.
            let gap = shown.limited && shown.start > place(since) + 1;
            let before = Some(before).filter(|_| !gap);
            events.extend(self.needed_members(room, &shown, before, subject.connection).await?);
        }
        let nothing = shown.events.is_empty() && events.is_empty() && gone.is_empty();
        let known = match (shown.limited, expanded) {
            (true, _) => limit,
            (false, true) => usize::MAX,
            (false, false) => sent.limit,
        };
        if nothing && !own_news && !dm_changed && !members_changed && !shown.limited {
            return Ok(Told { answer: None, limit: known, start: None });
        }
        let mut answer = self.with_events(subject, &shown, &events).await?;
        answer.gone = gone;
        answer.expanded = expanded && !shown.events.is_empty();
        answer.num_live = live_after(&shown, Some(since));
        answer.is_dm = Some(subject.is_dm).filter(|_| dm_changed);
        if name_changed {
            self.add_name(room, shown.state_after, &mut answer).await?;
        }
        if avatar_changed {
            self.add_avatar(room, shown.state_after, &mut answer).await?;
        }
        if members_changed || name_changed {
            self.add_people(room, shown.state_after, &mut answer).await?;
        }
        Ok(Told { answer: Some(answer), limit: known, start: None })
    }

    /// "Required state expansion: … state that matches the new, but not the old".
    async fn added_state(
        &self,
        subject: &Subject<'_>,
        shown: &Shown,
        old: &[StateWish],
    ) -> Result<Vec<EventNid>, Error> {
        let new = self.wished_state(subject.room, shown.state_after, subject.wishes).await?;
        let old = self.wished_state(subject.room, shown.state_after, old).await?;
        Ok(new.difference(&old).copied().collect())
    }

    /// A room that the user is invited to, or knocks at.
    async fn tell_outsider(&self, subject: &Subject<'_>) -> Result<RoomAnswer, Error> {
        let mut state = List::default();
        let Subject { room, row, .. } = *subject;
        for event in self.sync.rooms.stripped_state(room, row, self.caller).await? {
            state.push_json(&event);
        }
        Ok(RoomAnswer {
            membership: name_of(row),
            initial: true,
            is_dm: Some(true).filter(|_| subject.is_dm),
            stripped_state: Some(state),
            bump_stamp: Some(row.position),
            ..RoomAnswer::default()
        })
    }

    /// A room that the user is out of: what they saw of it, and how they came to be out. The event
    /// that says so goes into the state whatever was asked for: it is how clients learn of it.
    async fn tell_leaver(&self, subject: &Subject<'_>) -> Result<Told, Error> {
        let (room, row, limit) = (subject.room, subject.row, subject.limit);
        // What was told while the user was in goes on; an invite is something else.
        let told = subject.sent.filter(|sent| sent.face != Face::Invited);
        let since = told.and_then(|sent| sent.events.position(self.since));
        // Forgotten: only that it is over.
        let over = MembershipRow { joined_until: None, ..row.clone() };
        let row = if row.forgotten { &over } else { row };
        let wish = Wish { limit, filter: None };
        let shown = self.shown_to_leaver(room, row, since, &wish).await?;
        let mut state = BTreeSet::from([EventNid(row.event)]);
        let until = row.joined_until.map(Position);
        match (until, since) {
            (Some(until), Some(since)) => {
                let before = self.state_at(room, since.min(until)).await?;
                let roots = (before, shown.state_after);
                state.extend(self.changed_state(room, roots, subject.wishes).await?.events);
            }
            (Some(_), None) => {
                state.extend(self.wished_state(room, shown.state_after, subject.wishes).await?);
            }
            (None, _) => {}
        }
        let own_id = self.caller.user_id.as_str();
        let own = self.own_member(room, shown.state_after, own_id).await?;
        if let Some(own) = own.filter(|own| own.0 != row.event) {
            // An older one must not come after the one that counts.
            state.remove(&own);
        }
        let mut answer = self.with_events(subject, &shown, &state).await?;
        answer.initial = since.is_none();
        answer.num_live = live_after(&shown, since);
        if since.is_none() && until.is_some() {
            self.add_name(room, shown.state_after, &mut answer).await?;
            self.add_avatar(room, shown.state_after, &mut answer).await?;
            answer.name = answer.name.filter(Option::is_some);
            answer.avatar = answer.avatar.filter(Option::is_some);
        }
        Ok(Told { answer: Some(answer), limit, start: None })
    }

    async fn own_member(
        &self,
        room: RoomNid,
        root: Root,
        own_id: &str,
    ) -> Result<Option<EventNid>, Error> {
        let members = self.member_events(room, root, BTreeSet::from([own_id.to_owned()])).await?;
        Ok(members.first().copied())
    }

    /// Timeline, state, and what goes with every room.
    async fn with_events(
        &self,
        subject: &Subject<'_>,
        shown: &Shown,
        state: &BTreeSet<EventNid>,
    ) -> Result<RoomAnswer, Error> {
        let room = subject.room;
        let ledger = &self.sync.house.ledger;
        let numbers: Vec<_> = state.iter().copied().collect();
        let mut answer = RoomAnswer {
            membership: name_of(subject.row),
            required_state: self.state_list(&ledger.events(&numbers).await?, None),
            timeline: self.timeline_list(room, shown, None).await?,
            limited: shown.limited,
            num_live: live_after(shown, self.since),
            prev_batch: Some(timeline_token(shown.start)),
            bump_stamp: Some(subject.row.position),
            ..RoomAnswer::default()
        };
        if subject.face() == Face::Joined {
            let bump = self.sync.facts(room, self.upto).await?.bump;
            answer.bump_stamp = Some(u64::try_from(bump).unwrap_or_default());
            // "Does not include threaded notifications."
            let unread = self.sync.reading.unread(self.caller, room, self.upto).await?;
            answer.unread = Some(unread.main);
        }
        Ok(answer)
    }

    async fn add_name(
        &self,
        room: RoomNid,
        root: Root,
        answer: &mut RoomAnswer,
    ) -> Result<(), Error> {
        let kind = StateEventType::RoomName;
        answer.name = Some(self.sync.rooms.state_text(room, root, kind, "name").await?);
        Ok(())
    }

    async fn add_avatar(
        &self,
        room: RoomNid,
        root: Root,
        answer: &mut RoomAnswer,
    ) -> Result<(), Error> {
        let kind = StateEventType::RoomAvatar;
        answer.avatar = Some(self.sync.rooms.state_text(room, root, kind, "url").await?);
        Ok(())
    }

    /// How many are in the room and, "only included if the room name is not set", who.
    async fn add_people(
        &self,
        room: RoomNid,
        root: Root,
        answer: &mut RoomAnswer,
    ) -> Result<(), Error> {
        let rooms = &self.sync.rooms;
        let head = rooms.counts(room).await?;
        answer.members = Some(head);
        let name = match &answer.name {
            Some(name) => name.clone(),
            None => rooms.state_text(room, root, StateEventType::RoomName, "name").await?,
        };
        if name.is_some() {
            return Ok(());
        }
        let mut heroes = Vec::new();
        for user_id in rooms.heroes(room, self.caller.user).await? {
            let kind = StateEventType::RoomMember;
            let member = rooms.state_at(room, root, &kind, user_id.as_str()).await?;
            let content = member
                .and_then(|event| serde_json::from_str::<serde_json::Value>(event.content()).ok());
            let text = |field: &str| {
                content.as_ref()?.get(field)?.as_str().filter(|t| !t.is_empty()).map(str::to_owned)
            };
            let (name, avatar) = (text("displayname"), text("avatar_url"));
            heroes.push(Hero { user_id: user_id.to_string(), name, avatar });
        }
        answer.heroes = Some(heroes);
        Ok(())
    }
}

/// "The number of timeline events which have 'just occurred' … since the previous sync request."
fn live_after(shown: &Shown, since: Option<Position>) -> u64 {
    let Some(since) = since else { return 0 };
    let is_live = |at: Option<i64>| at.is_some_and(|at| at > place(since));
    let live = shown.events.iter().filter(|(event, _)| is_live(event.position)).count();
    u64::try_from(live).unwrap_or(u64::MAX)
}

fn name_of(row: &MembershipRow) -> &'static str {
    match row.membership {
        membership::JOIN => "join",
        membership::INVITE => "invite",
        membership::KNOCK => "knock",
        membership::BAN => "ban",
        _ => "leave",
    }
}
