//! What a sliding sync tells besides rooms.

use std::collections::{BTreeMap, HashMap};

use appliance_model::{Error, Position, RoomNid};
use serde_json::{Map, Value};

use super::super::look::Look;
use super::super::wait::{Memberships, News, RoomNews};
use super::super::write::List;
use super::answer::{AccountData, E2ee, ToDevice};
use super::connection::{Known, Upto};
use super::request::{ThreadsRequest, ToDeviceRequest};
use crate::reading::Receipt;

/// Messages to a device in one answer ("limit … default 100"), and at the most.
const TO_DEVICE_DEFAULT: usize = 100;
const TO_DEVICE_MAX: usize = 1_000;

/// A room that an extension is about.
pub(super) struct Relevant {
    pub room: RoomNid,
    /// Up to where it was told of this room.
    pub told: Upto,
    /// Where the timeline begins that goes with a room that is new to the client.
    pub start: Option<i64>,
}

impl Look<'_> {
    /// Messages to the device.
    pub(super) async fn to_device_extension(
        &self,
        request: ToDeviceRequest,
    ) -> Result<ToDevice, Error> {
        let limit = request.limit.unwrap_or(TO_DEVICE_DEFAULT).clamp(1, TO_DEVICE_MAX);
        // A client never has more than there was.
        let since = request.since.map(|since| since.min(self.upto));
        let (events, Position(next_batch)) = self.to_device(since, limit).await?;
        Ok(ToDevice { next_batch, events })
    }

    /// Key counts, always, and whose device lists changed. A connection that begins hears of no
    /// lists: its client fetches all it needs.
    pub(super) async fn e2ee_extension(&self, memberships: &Memberships) -> Result<E2ee, Error> {
        let company = self.company(memberships).await?;
        Ok(E2ee {
            key_counts: self.key_counts().await?,
            device_lists: self.device_lists(memberships, company).await?,
            news: self.device_news(),
        })
    }

    /// Account data, global and of the rooms.
    pub(super) async fn account_data_extension(
        &self,
        rooms: &[Relevant],
        first: bool,
    ) -> Result<AccountData, Error> {
        let since = self.since.filter(|_| !first);
        let look = Look { since, ..self.clone() };
        let news = look.account_data_news().await?;
        let mut answer = AccountData::default();
        let mut of_rooms: HashMap<RoomNid, List> = HashMap::new();
        for datum in &news.data {
            match datum.room {
                Some(room) => of_rooms.entry(room).or_default().push_json(&datum.event()),
                None => answer.global.push_json(&datum.event()),
            }
        }
        if let Some(rules) = &news.push_rules {
            answer.global.push_json(&rules.event());
        }
        for Relevant { room, told, .. } in rooms {
            let events = match told {
                Upto::Live => of_rooms.remove(room),
                _ if since.is_none() => of_rooms.remove(room),
                _ => Some(self.all_account_data(*room).await?),
            };
            if let Some(events) = events.filter(|events| !events.is_empty()) {
                answer.rooms.insert(self.name_of(*room).await?, events);
            }
        }
        Ok(answer)
    }

    pub(super) async fn name_of(&self, room: RoomNid) -> Result<String, Error> {
        Ok(self.sync.house.ledger.room_id(room).await?.to_string())
    }

    async fn all_account_data(&self, room: RoomNid) -> Result<List, Error> {
        let mut list = List::default();
        for datum in self.sync.personal.room_account_data(self.caller.user, room).await? {
            list.push_json(&datum.event());
        }
        Ok(list)
    }

    /// Receipts of the rooms: those that moved; of a room that is new to the client those in its
    /// timeline and the user's own.
    pub(super) async fn receipts_extension(
        &self,
        rooms: &[Relevant],
        news: &HashMap<RoomNid, RoomNews>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let reading = &self.sync.reading;
        let mut events = BTreeMap::new();
        for Relevant { room, told, start } in rooms {
            let moved = match told {
                Upto::Never => self.first_receipts(*room, *start).await?,
                Upto::At(since) => reading.receipt_changes(*room, Some(*since), self.upto).await?,
                Upto::Live => {
                    let any = |news: &RoomNews| {
                        news.receipts != News::None || news.own_receipts != News::None
                    };
                    if !news.get(room).is_some_and(any) {
                        continue;
                    }
                    reading.receipt_changes(*room, self.since, self.upto).await?
                }
            };
            // There is room for one event of each room.
            let shown = reading.receipt_events(self.caller.user, &moved).await?;
            if let Some(event) = shown.into_iter().next() {
                events.insert(self.name_of(*room).await?, event);
            }
        }
        Ok(events)
    }

    async fn first_receipts(
        &self,
        room: RoomNid,
        start: Option<i64>,
    ) -> Result<Vec<Receipt>, Error> {
        let start = match start {
            Some(start) => start,
            None => self.sync.facts(room, self.upto).await?.last,
        };
        // Nobody reads an event before it is there.
        let after = u64::try_from(start.saturating_sub(1)).ok().map(Position);
        let mut receipts = self.sync.reading.receipt_changes(room, after, self.upto).await?;
        let own = self.caller.user;
        receipts.retain(|receipt| receipt.row.place >= start && receipt.user != own);
        receipts.extend(self.sync.reading.own_receipts(own, room).await?);
        Ok(receipts)
    }

    /// Which threads the user subscribed to or left: "Only the latest changes are returned", and
    /// `prev_batch` where there were more.
    pub(super) async fn thread_subscriptions_extension(
        &self,
        request: ThreadsRequest,
        first: bool,
    ) -> Result<Map<String, Value>, Error> {
        let since = self.since.filter(|_| !first);
        let unchanged = |since| self.sync.waiters.user_news(self.caller.user, since) == News::None;
        if since.is_some_and(unchanged) {
            return Ok(Map::new());
        }
        let stretch = (since.unwrap_or_default(), self.upto);
        let personal = &self.sync.personal;
        let page = personal.subscription_page(self.caller.user, stretch, request.limit).await?;
        let mut changes = page.shown;
        if let Some(older) = page.older {
            changes.insert("prev_batch".to_owned(), older.into());
        }
        Ok(changes)
    }

    /// Who is typing in the rooms.
    pub(super) async fn typing_extension(
        &self,
        rooms: &[Relevant],
        known: &Known,
    ) -> Result<BTreeMap<String, String>, Error> {
        let reading = &self.sync.reading;
        let stirred = reading.rooms_with_typing(0);
        let mut events = BTreeMap::new();
        for Relevant { room, told, .. } in rooms {
            if !stirred.contains(room) {
                continue;
            }
            let after = if *told == Upto::Live { known.typing } else { 0 };
            let event = reading.typing_event(*room, after).await?;
            // That nobody types is news only to those who saw someone type.
            let is_news = |event: &String| after > 0 || !event.contains("\"user_ids\":[]");
            if let Some(event) = event.filter(is_news) {
                events.insert(self.name_of(*room).await?, event);
            }
        }
        Ok(events)
    }
}
