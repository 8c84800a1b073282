//! `GET /sync` ([spec]): what is new for one device, or a wait until something is.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv3sync

use std::sync::Arc;
use std::time::Duration;

use appliance_ledger::keyspaces::USER_ROOMS;
use appliance_ledger::rows::MembershipRow;
use appliance_ledger::{Direction, membership};
use appliance_model::ruma::api::client::filter::FilterDefinition;
use appliance_model::{Caller, Error, Position, RoomNid};

use super::room::Span;
use super::wait::{Memberships, News, Subscription};
use super::write::{Answer, List, StateForm};
use super::{Sync, Token};

/// A longer wait would meet the limits of proxies; clients ask again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// A user's rooms, left ones included. Beyond it the oldest are not shown.
const ROOMS_MAX: usize = 20_000;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Where the client stands; none means at the beginning.
    pub since: Option<Token>,
    /// What it wants.
    pub filter: Arc<FilterDefinition>,
    /// All state of all rooms, changed or not.
    pub full_state: bool,
    /// How long to wait for news.
    pub timeout: Duration,
    /// Which form of state.
    pub state_form: StateForm,
}

/// One look at what is new.
pub(super) struct Round<'a> {
    pub sync: &'a Sync,
    pub caller: &'a Caller,
    pub request: &'a SyncRequest,
    /// The answer covers everything up to here.
    pub upto: Position,
}

impl Sync {
    /// What is new since `request.since`, as JSON; waits up to `request.timeout` if nothing is.
    ///
    /// `access_token` is looked at again after each wake-up: a session that ends while its request
    /// waits gets an error, not an answer.
    ///
    /// # Errors
    ///
    /// If the session ended or the store fails.
    pub async fn sync(
        &self,
        caller: &Caller,
        access_token: &str,
        request: &SyncRequest,
    ) -> Result<String, Error> {
        let mut subscription = self.waiters.subscribe(caller.user);
        let deadline = tokio::time::sleep(request.timeout.min(WAIT_MAX));
        tokio::pin!(deadline);
        let mut out_of_time = request.timeout.is_zero();
        loop {
            // Listen first, read then: what changes in between wakes.
            subscription.rearm();
            let upto = self.house.ledger.position();
            let round = Round { sync: self, caller, request, upto };
            let answer = round.answer(&subscription).await?;
            if request.since.is_none() || request.full_state || !answer.is_empty() || out_of_time {
                return Ok(answer.to_json());
            }
            tokio::select! {
                awake = subscription.woken() => out_of_time = !awake,
                () = &mut deadline => out_of_time = true,
            }
            self.accounts.authenticate(access_token).await?;
        }
    }

    /// The user's rooms, from memory while they are unchanged.
    async fn memberships(
        &self,
        caller: &Caller,
        subscription: &Subscription,
    ) -> Result<Memberships, Error> {
        loop {
            let (known, generation) = subscription.memberships();
            if let Some(known) = known {
                return Ok(known);
            }
            let ledger = &self.house.ledger;
            let (rows, _) = ledger
                .newest()
                .scan(&USER_ROOMS, &caller.user, Direction::Forward, ROOMS_MAX)
                .await?;
            let rows = rows.into_iter().map(|((_, room), row)| (room, row)).collect();
            let rows: Memberships = Arc::new(rows);
            if subscription.keep_memberships(&rows, generation) {
                return Ok(rows);
            }
        }
    }
}

impl Round<'_> {
    async fn answer(&self, subscription: &Subscription) -> Result<Answer, Error> {
        let memberships = self.sync.memberships(self.caller, subscription).await?;
        let mut answer = Answer::default();
        self.add_rooms(&memberships, &mut answer).await?;
        let token = Token { position: self.upto, typing: 0, to_device: self.upto };
        answer.next_batch = token.text();
        Ok(answer)
    }

    fn since(&self) -> Option<Position> {
        self.request.since.map(|token| token.position)
    }

    async fn add_rooms(&self, memberships: &Memberships, answer: &mut Answer) -> Result<(), Error> {
        let since = self.since();
        let joined = |row: &MembershipRow| row.membership == membership::JOIN;
        let rooms = memberships.iter().filter(|(_, row)| joined(row)).map(|(room, _)| *room);
        let news = since.map(|since| self.sync.waiters.rooms_with_news(rooms, since));
        for (room, row) in memberships.iter() {
            // Beyond the position of this answer: the next one tells it.
            if row.position > self.upto.0 && row.since > self.upto.0 {
                continue;
            }
            match row.membership {
                membership::JOIN => {
                    let has_news = news.as_ref().is_none_or(|news| news.contains_key(room));
                    if has_news || self.request.full_state {
                        self.add_joined(*room, row, answer).await?;
                    }
                }
                membership::INVITE | membership::KNOCK => {
                    if since.is_none_or(|since| row.position > since.0) {
                        self.add_invited(*room, row, answer).await?;
                    }
                }
                _ => self.add_left(*room, row, answer).await?,
            }
        }
        Ok(())
    }

    async fn add_joined(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let Some(room_id) = self.wanted(room).await? else { return Ok(()) };
        let newly_joined = self.since().is_none_or(|since| row.since > since.0);
        let span = Span { since: self.since().filter(|_| !newly_joined), upto: self.upto };
        let mut part = self.room_part(room, row, &span).await?;
        part.must_show = newly_joined || self.request.full_state;
        if !part.is_empty() {
            answer.join.push((room_id, part));
        }
        Ok(())
    }

    async fn add_invited(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let Some(room_id) = self.wanted(room).await? else { return Ok(()) };
        let mut state = List::default();
        for event in self.sync.rooms.stripped_state(room, row, self.caller).await? {
            state.push_json(&event);
        }
        let list = match row.membership {
            membership::INVITE => &mut answer.invite,
            _ => &mut answer.knock,
        };
        list.push((room_id, state));
        Ok(())
    }

    /// "The rooms that the user has left or been banned from": those of this span, and on a first
    /// sync only if asked for.
    async fn add_left(
        &self,
        room: RoomNid,
        row: &MembershipRow,
        answer: &mut Answer,
    ) -> Result<(), Error> {
        let shown = match self.since() {
            Some(since) => row.since > since.0,
            None => self.request.filter.room.include_leave,
        };
        if row.forgotten || !shown {
            return Ok(());
        }
        let Some(room_id) = self.wanted(room).await? else { return Ok(()) };
        let upto = Position(row.position.min(self.upto.0));
        let span = Span { since: self.since(), upto };
        let mut part = self.room_part(room, row, &span).await?;
        part.must_show = true;
        answer.leave.push((room_id, part));
        Ok(())
    }

    /// The room's ID, if the filter wants the room.
    async fn wanted(&self, room: RoomNid) -> Result<Option<String>, Error> {
        let room_id = self.sync.house.ledger.room_id(room).await?;
        let filter = &self.request.filter.room;
        let wanted = filter.rooms.as_ref().is_none_or(|rooms| rooms.contains(&room_id))
            && !filter.not_rooms.contains(&room_id);
        Ok(wanted.then(|| room_id.to_string()))
    }

    /// Whether something of the user's own may have changed.
    #[expect(dead_code, reason = "account data is wired next")]
    fn user_news(&self) -> News {
        match self.since() {
            Some(since) => self.sync.waiters.user_news(self.caller.user, since),
            None => News::Perhaps,
        }
    }
}
