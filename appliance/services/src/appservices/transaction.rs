//! Putting together what an application service is told next: events in the order of the log, and
//! with them who types, who has read, who is there, messages to its devices, and their keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use appliance_ledger::keyspaces::{DEVICES, EVENT_LOG, EVENTS, USER_ROOMS};
use appliance_ledger::rows::LoggedRow;
use appliance_ledger::{Direction, Event};
use appliance_model::ruma::UserId;
use appliance_model::{DeviceNid, Error, EventNid, Position, RoomNid, UserNid};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{Appservices, Registration};
use crate::accounts::Mask;
use crate::client_event::{self, Unsigned};
use crate::reading::PUBLIC;
use crate::stir::Stirred;

/// Events of one transaction: what a bridge works through in seconds.
const EVENTS_MAX: usize = 100;
/// Events looked at for one transaction, whether they concern the service or not.
const LOOKED_AT_MAX: usize = 5_000;
/// Rows of the log read at once.
const PAGE: usize = 200;
/// Messages to one device in one transaction.
const TO_DEVICE_MAX: usize = 100;
/// Devices of one user among which one is looked for.
const DEVICES_MAX: usize = 1_000;

/// What is told next.
#[derive(Default)]
pub(super) struct Parcel {
    /// The log was read up to here.
    pub upto: Position,
    /// Whether there may be more at once.
    pub more: bool,
    /// The body, if there is anything to tell.
    pub body: Option<String>,
    /// The messages to devices in it.
    pub delivered: Vec<(DeviceNid, Position)>,
    /// The typing and presence notices in it.
    pub serial: u64,
}

/// From where.
pub(super) struct Since {
    /// The log was told up to here.
    pub position: Position,
    /// Device lists and receipts were told up to here.
    pub lists: Position,
    /// Typing and presence were told up to here.
    pub serial: u64,
    /// What stirred since.
    pub stirred: Stirred,
    /// It is told up to here: what stirred later is not known.
    pub upto: Position,
}

impl Appservices {
    pub(super) async fn parcel(
        &self,
        service: &Registration,
        since: &Since,
    ) -> Result<Parcel, Error> {
        let mut parcel = Parcel { serial: self.reading.serial(), ..Parcel::default() };
        let mut body = Map::new();
        let events = self.events(service, (since.position, since.upto), &mut parcel).await?;
        let mut something = !events.is_empty();
        body.insert("events".to_owned(), events.into());
        if service.receive_ephemeral {
            let ephemeral = self.ephemeral(service, since).await?;
            if !ephemeral.is_empty() {
                something = true;
                // Bridges of before v1.13 look for the other name.
                body.insert("de.sorunome.msc2409.ephemeral".to_owned(), ephemeral.clone().into());
                body.insert("ephemeral".to_owned(), ephemeral.into());
            }
        }
        if service.encryption {
            something |= self.add_encryption(service, since, (&mut body, &mut parcel)).await?;
        }
        if something {
            parcel.body = Some(Value::Object(body).to_string());
        }
        Ok(parcel)
    }

    async fn events(
        &self,
        service: &Registration,
        (after, upto): (Position, Position),
        parcel: &mut Parcel,
    ) -> Result<Vec<Value>, Error> {
        let ledger = &self.house.ledger;
        let (mut events, mut looked_at) = (Vec::new(), 0);
        parcel.upto = after;
        let end = Position(upto.0 + 1);
        loop {
            let from = Position(parcel.upto.0 + 1);
            let range = (&from, &end);
            let (rows, more) =
                ledger.newest().scan_between(&EVENT_LOG, range, Direction::Forward, PAGE).await?;
            for (position, LoggedRow { room, event }) in rows {
                parcel.upto = position;
                looked_at += 1;
                // Deleted with its room since: nobody is told of it any more.
                let number = EventNid(event);
                if ledger.get(&EVENTS, &number).await?.is_none() {
                    continue;
                }
                let (room, event) = (RoomNid(room), ledger.event(number).await?);
                if self.rooms.horizon(room).await?.hides(&event) {
                    continue;
                }
                if self.concerns(service, room, &event).await? {
                    events.push(self.shown(service, room, &event).await?);
                }
                if events.len() >= EVENTS_MAX || looked_at >= LOOKED_AT_MAX {
                    parcel.more = true;
                    return Ok(events);
                }
            }
            if !more {
                parcel.upto = Position(parcel.upto.0.max(end.0 - 1));
                return Ok(events);
            }
        }
    }

    /// An event "formatted as per the Client-Server API".
    async fn shown(
        &self,
        service: &Registration,
        room: RoomNid,
        event: &Arc<Event>,
    ) -> Result<Value, Error> {
        let ledger = &self.house.ledger;
        let room_id = ledger.room_id(room).await?;
        let replaced = match event.replaces {
            Some(number) => Some(ledger.event(number).await?),
            None => None,
        };
        let unsigned = Unsigned {
            age_ms: client_event::age_ms(event, self.house.clock.now_ms()),
            prev_content: replaced.as_deref().map(Event::content),
            replaces_state: replaced.as_deref().map(|event| event.event_id.as_str()),
            ..Unsigned::default()
        };
        let mut json = String::new();
        client_event::write(&mut json, event, Some(room_id.as_str()), unsigned);
        let mut shown: Value = serde_json::from_str(&json).map_err(Error::internal)?;
        if shown["content"]["membership"] == "invite"
            && let Some(state) = self.invite_state(service, room, event).await?
        {
            shown["unsigned"]["invite_room_state"] = state;
        }
        Ok(shown)
    }

    /// What one of the service's users is shown of the room that they are invited to.
    async fn invite_state(
        &self,
        service: &Registration,
        room: RoomNid,
        event: &Event,
    ) -> Result<Option<Value>, Error> {
        let target = event.part(event.spans.state_key).trim_matches('"').to_owned();
        let is_theirs =
            <&UserId>::try_from(target.as_str()).is_ok_and(|target| service.speaks_as(target));
        if !is_theirs {
            return Ok(None);
        }
        let mask = Mask { user_id: Some(target), device_id: None };
        let Ok(caller) = self.accounts.unmask(service, mask).await else { return Ok(None) };
        let row = self.house.ledger.get(&USER_ROOMS, &(caller.user, room)).await?;
        let Some(row) = row.filter(|row| row.event == event.number.0) else { return Ok(None) };
        let state = self.rooms.stripped_state(room, &row, &caller).await?;
        let parsed: Result<Vec<Value>, _> =
            state.iter().map(|json| serde_json::from_str(json)).collect();
        Ok(Some(parsed.map_err(Error::internal)?.into()))
    }

    /// "Room-scoped ephemeral data (`m.typing` and `m.receipt`) MUST include a `room_id`."
    async fn ephemeral(&self, service: &Registration, since: &Since) -> Result<Vec<Value>, Error> {
        let (ledger, reading) = (&self.house.ledger, &self.reading);
        let mut events = Vec::new();
        for room in reading.rooms_with_typing(since.serial) {
            if self.concerns_room(service, room).await?
                && let Some(event) = reading.typing_event(room, since.serial).await?
            {
                events.push(of_room(&event, ledger.room_id(room).await?.as_str())?);
            }
        }
        for room in since
            .stirred
            .receipts
            .iter()
            .chain(since.stirred.own_receipts.iter().map(|(_, room)| room))
            .collect::<BTreeSet<_>>()
        {
            if !self.concerns_room(service, *room).await? {
                continue;
            }
            let moved = reading.receipt_changes(*room, Some(since.lists), since.upto).await?;
            let mut shown = Vec::new();
            for receipt in moved {
                // "Private read receipts should only be sent for users matching one of the
                // application service's namespaces."
                let theirs = service.speaks_as(&ledger.user_id(receipt.user).await?);
                if receipt.kind == PUBLIC || theirs {
                    shown.push(receipt);
                }
            }
            for event in reading.receipts_shown(&shown).await? {
                events.push(of_room(&event, ledger.room_id(*room).await?.as_str())?);
            }
        }
        for (user, content) in reading.presence_changes(since.serial) {
            let user_id = ledger.user_id(user).await?;
            if service.speaks_as(&user_id) || self.meets(service, user).await? {
                events.push(json!({ "type": "m.presence", "sender": user_id, "content": content }));
            }
        }
        Ok(events)
    }

    /// Whether a user is in one of the service's rooms.
    async fn meets(&self, service: &Registration, user: UserNid) -> Result<bool, Error> {
        for room in self.rooms.joined(user).await? {
            if self.concerns_room(service, room).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Messages to the devices of the service's users, how many keys those have left, and whose
    /// device lists changed ([MSC3202], [MSC4203]). Returns whether there is anything.
    ///
    /// [MSC3202]: https://github.com/matrix-org/matrix-spec-proposals/pull/3202
    /// [MSC4203]: https://github.com/matrix-org/matrix-spec-proposals/pull/4203
    async fn add_encryption(
        &self,
        service: &Registration,
        since: &Since,
        (body, parcel): (&mut Map<String, Value>, &mut Parcel),
    ) -> Result<bool, Error> {
        let mut messages = Vec::new();
        let mut counts: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        let mut fallbacks: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
        for (user, device) in &since.stirred.devices {
            let user_id = self.house.ledger.user_id(*user).await?;
            if !service.speaks_as(&user_id) {
                continue;
            }
            let Some(device_id) = self.device_id(*user, *device).await? else { continue };
            let (waiting, more) =
                self.keys.to_device(*device, Position(0), since.upto, TO_DEVICE_MAX).await?;
            parcel.more |= more;
            for (position, message) in waiting {
                messages.push(addressed(&message, (user_id.as_str(), &device_id))?);
                parcel.delivered.push((*device, position));
            }
            let (left, unused) = self.keys.counts(*device).await?;
            let of_user = counts.entry(user_id.to_string()).or_default();
            of_user.insert(device_id.clone(), json!(left));
            fallbacks.entry(user_id.to_string()).or_default().insert(device_id, json!(unused));
        }
        let changed = self.changed_lists(service, since.lists, since.upto).await?;
        let something = !messages.is_empty() || !counts.is_empty() || !changed.is_empty();
        body.insert("de.sorunome.msc2409.to_device".to_owned(), messages.into());
        let lists = json!({ "changed": changed, "left": [] });
        body.insert("org.matrix.msc3202.device_lists".to_owned(), lists);
        let name = "org.matrix.msc3202.device_one_time_keys_count";
        body.insert(name.to_owned(), json!(counts));
        let name = "org.matrix.msc3202.device_unused_fallback_key_types";
        body.insert(name.to_owned(), json!(fallbacks));
        Ok(something)
    }

    async fn changed_lists(
        &self,
        service: &Registration,
        after: Position,
        now: Position,
    ) -> Result<Vec<String>, Error> {
        let mut changed = Vec::new();
        for user in self.keys.device_list_changes(after, now).await? {
            let user_id = self.house.ledger.user_id(user).await?;
            if service.speaks_as(&user_id) || self.meets(service, user).await? {
                changed.push(user_id.to_string());
            }
        }
        Ok(changed)
    }

    async fn device_id(&self, user: UserNid, device: DeviceNid) -> Result<Option<String>, Error> {
        let newest = self.house.ledger.newest();
        let devices = newest.scan(&DEVICES, &user, Direction::Forward, DEVICES_MAX);
        let (rows, _): (Vec<((UserNid, String), _)>, _) = devices.await?;
        let found = rows.into_iter().find(|(_, row)| row.device == device.0);
        Ok(found.map(|((_, device_id), _)| device_id))
    }

    /// The devices of the service's users that have messages waiting: for the first look after a
    /// start.
    pub(super) async fn waiting_devices(
        &self,
        service: &Registration,
    ) -> Result<BTreeSet<(UserNid, DeviceNid)>, Error> {
        let mut waiting = BTreeSet::new();
        let newest = self.house.ledger.newest();
        for account in self.accounts.list_accounts().await? {
            if !service.speaks_as(&account.user_id) {
                continue;
            }
            let Some(user) = self.house.ledger.user(&account.user_id).await? else { continue };
            let devices = newest.scan(&DEVICES, &user, Direction::Forward, DEVICES_MAX);
            let (rows, _): (Vec<((UserNid, String), _)>, _) = devices.await?;
            waiting.extend(rows.into_iter().map(|(_, row)| (user, DeviceNid(row.device))));
        }
        Ok(waiting)
    }
}

fn of_room(event: &str, room_id: &str) -> Result<Value, Error> {
    let mut event: Value = serde_json::from_str(event).map_err(Error::internal)?;
    event["room_id"] = room_id.into();
    Ok(event)
}

fn addressed(message: &RawValue, (user_id, device_id): (&str, &str)) -> Result<Value, Error> {
    let mut message: Value = serde_json::from_str(message.get()).map_err(Error::internal)?;
    message["to_user_id"] = user_id.into();
    message["to_device_id"] = device_id.into();
    Ok(message)
}
