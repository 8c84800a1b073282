//! Thread subscriptions ([MSC4306], [MSC4308]): which threads a user wants to hear of.
//!
//! [MSC4306]: https://github.com/matrix-org/matrix-spec-proposals/pull/4306
//! [MSC4308]: https://github.com/matrix-org/matrix-spec-proposals/pull/4308

use appliance_ledger::keyspaces::{THREAD_SUBSCRIPTION_CHANGES, THREAD_SUBSCRIPTIONS};
use appliance_ledger::rows::extras::{SubscribedThreadRow, SubscriptionRow};
use appliance_ledger::{Commit, Direction, Event};
use appliance_model::ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use appliance_model::{Caller, Error, EventNid, Kind, Position, RoomNid, UserNid};
use appliance_rules::Permit;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Personal;
use crate::sync::Token;

/// Why a client subscribes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The user asked for it.
    Manual,
    /// A client did it, without saying for which event: what the first drafts knew.
    Automatic,
    /// A client did it, for this event of the thread.
    Event(OwnedEventId),
}

/// "Defaults to 100. Servers may impose a smaller limit than what is requested here."
const CHANGES_MAX: usize = 100;

/// A change of a subscription, as lists show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SubscriptionChange {
    /// When: the `bump_stamp`.
    position: Position,
    room_id: OwnedRoomId,
    /// The root of the thread.
    root: OwnedEventId,
    /// Subscribed now, and whether a client did it by itself; none: unsubscribed.
    subscribed: Option<bool>,
}

/// The newest changes of a stretch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SubscriptionPage {
    /// `subscribed` and `unsubscribed`, as clients are shown them: by room, by root.
    pub shown: Map<String, Value>,
    /// Where the older changes end that the page has no room for.
    pub older: Option<String>,
}

impl Personal {
    /// Subscribes the caller to a thread. "Manual subscriptions take precedence over automatic
    /// subscriptions."
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: no such event, or not for the caller to see.
    /// * [`Kind::NotInThread`]: the event for which a client subscribes is not in the thread.
    /// * [`Kind::ConflictingUnsubscription`]: the user unsubscribed after that event.
    pub async fn subscribe_thread(
        &self,
        caller: &Caller,
        (room_id, root): (&RoomId, &EventId),
        cause: Cause,
    ) -> Result<(), Error> {
        let (room, root_number) = self.thread(caller, room_id, root).await?;
        let inside = self.doors.enter(caller.user.0).await;
        let key = (caller.user, room, root_number);
        let old = self.house.ledger.get(&THREAD_SUBSCRIPTIONS, &key).await?;
        if let Cause::Event(event_id) = &cause {
            self.check_cause(caller, (room_id, root), event_id, old.as_ref()).await?;
        }
        let automatic = cause != Cause::Manual;
        if old.as_ref().is_some_and(|row| row.subscribed && (automatic || !row.automatic)) {
            return Ok(());
        }
        let permit = Permit::own("thread.subscribed", &caller.user_id, root);
        let mut commit = self.house.ledger.begin(permit);
        write(&mut commit, key, old, (true, automatic));
        commit.hold(inside);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Unsubscribes the caller from a thread.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]: no such event, or not for the caller to see.
    pub async fn unsubscribe_thread(
        &self,
        caller: &Caller,
        (room_id, root): (&RoomId, &EventId),
    ) -> Result<(), Error> {
        let (room, root_number) = self.thread(caller, room_id, root).await?;
        let inside = self.doors.enter(caller.user.0).await;
        let key = (caller.user, room, root_number);
        let old = self.house.ledger.get(&THREAD_SUBSCRIPTIONS, &key).await?;
        if old.as_ref().is_none_or(|row| !row.subscribed) {
            return Ok(());
        }
        let permit = Permit::own("thread.unsubscribed", &caller.user_id, root);
        let mut commit = self.house.ledger.begin(permit);
        write(&mut commit, key, old, (false, false));
        commit.hold(inside);
        self.house.ledger.commit(commit).await.map(drop)
    }

    /// Whether the caller is subscribed to a thread, and whether a client did it by itself.
    ///
    /// # Errors
    ///
    /// [`Kind::NotFound`]: "there is no subscription to that thread, or the thread does not exist,
    /// or the thread is inaccessible".
    pub async fn thread_subscription(
        &self,
        caller: &Caller,
        (room_id, root): (&RoomId, &EventId),
    ) -> Result<bool, Error> {
        let (room, root) = self.thread(caller, room_id, root).await?;
        let automatic = self.is_subscribed(caller.user, room, root).await?;
        automatic.ok_or_else(|| Error::not_found("You are not subscribed to this thread."))
    }

    /// Whether a user is subscribed to a thread, and whether a client did it by itself. For push
    /// rules.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn is_subscribed(
        &self,
        user: UserNid,
        room: RoomNid,
        root: EventNid,
    ) -> Result<Option<bool>, Error> {
        let row = self.house.ledger.get(&THREAD_SUBSCRIPTIONS, &(user, room, root)).await?;
        Ok(row.filter(|row| row.subscribed).map(|row| row.automatic))
    }

    /// The newest changes after `after`, up to `upto`, at most `limit`, and of those at most a
    /// hundred. What sliding sync's extension and the endpoint for catching up show.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn subscription_page(
        &self,
        user: UserNid,
        stretch: (Position, Position),
        limit: Option<usize>,
    ) -> Result<SubscriptionPage, Error> {
        let limit = limit.unwrap_or(CHANGES_MAX).clamp(1, CHANGES_MAX);
        let (changes, more) = self.subscription_changes(user, stretch, limit).await?;
        let older = changes.last().filter(|_| more).map(|last| {
            // What comes next is older than the last one.
            let position = Position(last.position.0.saturating_sub(1));
            Token { position, typing: 0, to_device: position }.text()
        });
        Ok(SubscriptionPage { shown: shown(&changes), older })
    }

    /// Newest first, and whether there are more.
    async fn subscription_changes(
        &self,
        user: UserNid,
        (after, upto): (Position, Position),
        limit: usize,
    ) -> Result<(Vec<SubscriptionChange>, bool), Error> {
        let ledger = &self.house.ledger;
        let (from, to) = (Position(after.0.saturating_add(1)), Position(upto.0.saturating_add(1)));
        let range = (&(user, from), &(user, to));
        let view = ledger.newest();
        let (rows, more) = view
            .scan_between(&THREAD_SUBSCRIPTION_CHANGES, range, Direction::Backward, limit)
            .await?;
        let mut changes = Vec::with_capacity(rows.len());
        for ((_, position), row) in rows {
            let (room, root) = (RoomNid(row.room), EventNid(row.root));
            let now = ledger.get(&THREAD_SUBSCRIPTIONS, &(user, room, root)).await?;
            let Some(now) = now.filter(|now| now.position == position.0) else { continue };
            changes.push(SubscriptionChange {
                position,
                room_id: ledger.room_id(room).await?,
                root: ledger.event(root).await?.event_id.clone(),
                subscribed: now.subscribed.then_some(now.automatic),
            });
        }
        Ok((changes, more))
    }

    /// The numbers of a thread's room and root, if the caller may see the root.
    async fn thread(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        root: &EventId,
    ) -> Result<(RoomNid, EventNid), Error> {
        let unknown = || Error::not_found("There is no such thread, or you cannot see it.");
        let seen = self.rooms.one_event(caller, room_id, root).await;
        seen.map_err(|error| match error.kind {
            Kind::Forbidden => unknown(),
            _ => error,
        })?;
        let event = self.house.ledger.event_by_id(root).await?.ok_or_else(unknown)?;
        Ok((event.room, event.number))
    }

    async fn check_cause(
        &self,
        caller: &Caller,
        (room_id, root): (&RoomId, &EventId),
        event_id: &EventId,
        old: Option<&SubscriptionRow>,
    ) -> Result<(), Error> {
        let outside = || Error::new(Kind::NotInThread, "That event is not in this thread.");
        let seen = self.rooms.one_event(caller, room_id, event_id).await;
        seen.map_err(|_| outside())?;
        let event = self.house.ledger.event_by_id(event_id).await?.ok_or_else(outside)?;
        // The root itself is in no thread: it was there before there was one.
        if thread_of(&event).as_deref() != Some(root) {
            return Err(outside());
        }
        let place = event.position.unwrap_or(i64::MIN);
        let gone = old.filter(|row| !row.subscribed && row.position.cast_signed() > place);
        if gone.is_some() {
            return Err(Error::new(
                Kind::ConflictingUnsubscription,
                "The user unsubscribed after that event.",
            ));
        }
        Ok(())
    }
}

fn shown(changes: &[SubscriptionChange]) -> Map<String, Value> {
    let mut shown = Map::new();
    for change in changes {
        let stamp = change.position.0;
        let (list, state) = match change.subscribed {
            Some(automatic) => {
                ("subscribed", json!({ "automatic": automatic, "bump_stamp": stamp }))
            }
            None => ("unsubscribed", json!({ "bump_stamp": stamp })),
        };
        let rooms = shown.entry(list).or_insert_with(|| json!({}));
        rooms[change.room_id.as_str()][change.root.as_str()] = state;
    }
    shown
}

/// The root of the thread that an event is in.
fn thread_of(event: &Event) -> Option<OwnedEventId> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relation: Relation,
    }
    #[derive(Deserialize)]
    struct Relation {
        rel_type: String,
        event_id: OwnedEventId,
    }
    let content: Content = serde_json::from_str(event.content()).ok()?;
    (content.relation.rel_type == "m.thread").then_some(content.relation.event_id)
}

fn write(
    commit: &mut Commit,
    key: (UserNid, RoomNid, EventNid),
    old: Option<SubscriptionRow>,
    (subscribed, automatic): (bool, bool),
) {
    let (user, room, root) = key;
    commit.touched().users.push(user);
    if let Some(old) = old {
        commit.delete(&THREAD_SUBSCRIPTION_CHANGES, &(user, Position(old.position)));
    }
    commit.stamp(move |position, rows| {
        let row = SubscriptionRow { subscribed, automatic, position: position.0 };
        rows.put(&THREAD_SUBSCRIPTIONS, &key, &row);
        let thread = SubscribedThreadRow { room: room.0, root: root.0 };
        rows.put(&THREAD_SUBSCRIPTION_CHANGES, &(user, position), &thread);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Ward, event};

    #[tokio::test]
    async fn manual_wins_over_automatic_and_the_last_word_over_both() {
        let (ward, [nurse, doctor]) = Ward::with_members(["nurse", "doctor"]).await;
        let personal = &ward.services.personal;
        let room = ward.room_of(&[&nurse, &doctor]).await;
        let root = EventId::parse(ward.say(&nurse, &room, "Bed 4?").await).unwrap();
        let thread = (&*room, &*root);
        let reply = async |txn: &str| {
            let relation = json!({ "rel_type": "m.thread", "event_id": root });
            let content = json!({ "body": "free", "m.relates_to": relation });
            let request = event(&room, ("m.room.message", txn), content);
            ward.services.rooms.send_event(&nurse, &request).await.unwrap()
        };
        let first = reply("1").await;
        let state = async || personal.thread_subscription(&doctor, thread).await.ok();
        assert_eq!(state().await, None);
        let subscribe = async |cause| {
            personal.subscribe_thread(&doctor, thread, cause).await.map_err(|error| error.kind)
        };
        subscribe(Cause::Event(first.clone())).await.unwrap();
        assert_eq!(state().await, Some(true));
        subscribe(Cause::Manual).await.unwrap();
        subscribe(Cause::Automatic).await.unwrap();
        assert_eq!(state().await, Some(false), "manual stays");
        let start = ward.services.house.ledger.position();
        personal.unsubscribe_thread(&doctor, thread).await.unwrap();
        personal.unsubscribe_thread(&doctor, thread).await.unwrap();
        assert_eq!(state().await, None);
        let stale = subscribe(Cause::Event(first)).await;
        assert_eq!(stale, Err(Kind::ConflictingUnsubscription));
        let other = EventId::parse(ward.say(&nurse, &room, "elsewhere").await).unwrap();
        assert_eq!(subscribe(Cause::Event(other)).await, Err(Kind::NotInThread));
        let changes = async |after| {
            let upto = ward.services.house.ledger.position();
            personal.subscription_changes(doctor.user, (after, upto), 10).await.unwrap().0
        };
        assert_eq!(changes(start).await.len(), 1, "each thread once");
        assert_eq!(changes(start).await[0].subscribed, None);
        subscribe(Cause::Event(reply("2").await)).await.unwrap();
        let now = changes(Position(0)).await;
        assert_eq!((now.len(), now[0].subscribed), (1, Some(true)));
        assert_eq!(now[0].root, root);

        let stranger = ward.member("visitor").await;
        let hidden = personal.subscribe_thread(&stranger, thread, Cause::Manual).await;
        assert_eq!(hidden.unwrap_err().kind, Kind::NotFound);
    }
}
