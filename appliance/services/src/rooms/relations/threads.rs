//! `GET /rooms/{roomId}/threads` ([spec]): the threads of a room, the one last written in first.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#get_matrixclientv1roomsroomidthreads

use std::sync::Arc;

use appliance_ledger::keyspaces::{THREAD_SENDERS, THREADS};
use appliance_ledger::rows::TimelineRow;
use appliance_ledger::{Direction, Event};
use appliance_model::ruma::events::room::member::MembershipState;
use appliance_model::ruma::{EventId, RoomId};
use appliance_model::{Caller, Error, RoomNid};

use super::digest_of;
use crate::rooms::{ClientEvents, Rooms};

/// More at once is asked for in pages.
const LIMIT_MAX: usize = 100;
/// Threads looked at for one page, when few may be seen or the caller is in few.
const LOOKED_AT_MAX: usize = 2_000;

/// Which threads.
#[derive(Clone, Copy, Debug)]
pub struct ThreadsQuery {
    /// Only those that the caller has written in.
    pub participated: bool,
    /// How many.
    pub limit: usize,
    /// Where to begin.
    pub from: Option<i64>,
}

/// A page of threads.
pub struct ThreadsPage {
    /// Their roots.
    pub chunk: ClientEvents,
    /// Where the next page begins; none if there is no more.
    pub next: Option<i64>,
}

impl Rooms {
    /// A page of a room's threads.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::Forbidden`]: the caller was never in the room.
    pub async fn threads(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        query: ThreadsQuery,
    ) -> Result<ThreadsPage, Error> {
        let room = self.readable(caller, room_id).await?;
        let view = self.house.ledger.newest();
        let limit = query.limit.clamp(1, LIMIT_MAX);
        let (mut found, mut looked_at, mut next) = (Vec::new(), 0, None);
        let mut high = query.from.unwrap_or(i64::MAX);
        loop {
            let (low, to) = ((room, i64::MIN), (room, high));
            let (rows, more) =
                view.scan_between(&THREADS, (&low, &to), Direction::Backward, limit + 1).await?;
            looked_at += rows.len();
            for ((_, place, _), row) in rows {
                if found.len() == limit {
                    next = Some(high);
                    break;
                }
                high = place;
                found.extend(self.root_seen(caller, room, &row.root, query).await?);
            }
            if next.is_some() || !more {
                break;
            }
            if looked_at >= LOOKED_AT_MAX {
                next = Some(high);
                break;
            }
        }
        Ok(ThreadsPage { chunk: self.client_events(caller, room, found).await?, next })
    }

    async fn root_seen(
        &self,
        caller: &Caller,
        room: RoomNid,
        root: &str,
        query: ThreadsQuery,
    ) -> Result<Option<(Arc<Event>, Option<MembershipState>)>, Error> {
        let ledger = &self.house.ledger;
        let Ok(event_id) = EventId::parse(root) else { return Ok(None) };
        let Some(event) = ledger.event_by_id(&event_id).await? else { return Ok(None) };
        if event.room != room {
            return Ok(None);
        }
        if query.participated
            && event.part(event.spans.sender).trim_matches('"') != caller.user_id.as_str()
        {
            let key = (digest_of(ledger, room, root), caller.user);
            if ledger.get(&THREAD_SENDERS, &key).await?.is_none() {
                return Ok(None);
            }
        }
        let one = [(event.clone(), TimelineRow::default())];
        let reader = self.visible(caller.user, room, &one).await?.pop().flatten();
        Ok(reader.map(|reader| (event, Some(reader))))
    }
}
