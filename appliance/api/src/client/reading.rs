//! Receipts, read markers, typing, presence.

use std::time::Duration;

use appliance_model::ruma::api::client::presence::{get_presence, set_presence};
use appliance_model::ruma::api::client::read_marker::set_read_marker;
use appliance_model::ruma::api::client::receipt::create_receipt;
use appliance_model::ruma::api::client::receipt::create_receipt::v3::ReceiptType;
use appliance_model::ruma::api::client::typing::create_typing_event;
use appliance_model::ruma::api::client::typing::create_typing_event::v3::Typing;
use appliance_model::ruma::events::receipt::ReceiptThread;
use appliance_model::ruma::{EventId, RoomId};
use appliance_model::{Caller, Error};
use appliance_services::Services;
use appliance_services::reading::{NewReceipt, PRIVATE, PUBLIC};

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(receipt);
    routes.serve(read_markers);
    routes.serve(typing);
    routes.serve(get_presence);
    routes.serve(set_presence);
}

async fn receipt(
    visit: Visit<create_receipt::v3::Request>,
) -> Result<create_receipt::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let thread = match &request.thread {
        ReceiptThread::Unthreaded => "",
        thread => thread.as_str().unwrap_or_default(),
    };
    if request.receipt_type == ReceiptType::FullyRead {
        // "thread_id … must not be sent with m.fully_read".
        if !thread.is_empty() {
            return Err(Error::invalid_param("`m.fully_read` has no thread."));
        }
        fully_read(&visit.services, caller, &request.room_id, &request.event_id).await?;
        return Ok(create_receipt::v3::Response::new());
    }
    let kind = match request.receipt_type {
        ReceiptType::Read => PUBLIC,
        ReceiptType::ReadPrivate => PRIVATE,
        _ => return Err(Error::invalid_param("This server knows no such kind of receipt.")),
    };
    let new = NewReceipt { kind, event_id: &request.event_id, thread };
    visit.services.reading.receive(caller, &request.room_id, new).await?;
    Ok(create_receipt::v3::Response::new())
}

async fn read_markers(
    visit: Visit<set_read_marker::v3::Request>,
) -> Result<set_read_marker::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    if let Some(event_id) = &request.fully_read {
        fully_read(&visit.services, caller, &request.room_id, event_id).await?;
    }
    for (kind, event_id) in
        [(PUBLIC, &request.read_receipt), (PRIVATE, &request.private_read_receipt)]
    {
        if let Some(event_id) = event_id {
            let new = NewReceipt { kind, event_id, thread: "" };
            visit.services.reading.receive(caller, &request.room_id, new).await?;
        }
    }
    Ok(set_read_marker::v3::Response::new())
}

/// The marker is room account data that only this endpoint sets.
async fn fully_read(
    services: &Services,
    caller: &Caller,
    room_id: &RoomId,
    event_id: &EventId,
) -> Result<(), Error> {
    services.reading.mark_fully_read(caller, room_id, event_id).await
}

async fn typing(
    visit: Visit<create_typing_event::v3::Request>,
) -> Result<create_typing_event::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    if caller.user_id != request.user_id {
        return Err(Error::forbidden("You can only type for yourself."));
    }
    let timeout_ms = match request.state {
        Typing::Yes(info) => Some(u64::try_from(info.timeout.as_millis()).unwrap_or(u64::MAX)),
        Typing::No => None,
    };
    visit.services.reading.set_typing(caller, &request.room_id, timeout_ms).await?;
    Ok(create_typing_event::v3::Response::new())
}

async fn get_presence(
    visit: Visit<get_presence::v3::Request>,
) -> Result<get_presence::v3::Response, Error> {
    let (caller, user_id) = (visit.caller()?, &visit.request.user_id);
    let (services, hidden) = (&visit.services, || Error::forbidden("You share no room with them."));
    let user = services.house.ledger.user(user_id).await?.ok_or_else(hidden)?;
    if user != caller.user && !services.rooms.share_a_room(caller.user, user).await? {
        return Err(hidden());
    }
    let content = services.reading.presence_of(user);
    let state = serde_json::from_value(content["presence"].clone()).map_err(Error::internal)?;
    let mut response = get_presence::v3::Response::new(state);
    response.status_msg = content["status_msg"].as_str().map(ToOwned::to_owned);
    response.currently_active = content["currently_active"].as_bool();
    response.last_active_ago = content["last_active_ago"].as_u64().map(Duration::from_millis);
    Ok(response)
}

async fn set_presence(
    visit: Visit<set_presence::v3::Request>,
) -> Result<set_presence::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let set = (request.presence.clone(), request.status_msg.clone());
    visit.services.reading.set_presence(caller, &request.user_id, set)?;
    Ok(set_presence::v3::Response::new())
}
