//! Rooms: creating, sending.

use appliance_model::Error;
use appliance_model::ruma::api::Direction as RumaDirection;
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::room::{create_room, get_event_by_timestamp, upgrade_room};
use appliance_model::ruma::{MilliSecondsSinceUnixEpoch, UInt};
use appliance_services::Direction;
use appliance_services::rooms::Upgrade;

use serde_json::json;

use super::delayed::{delay_ms, schedule_from_query};
use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(create_room);
    routes.serve_json(send_event);
    routes.serve(upgrade);
    routes.serve(event_at);
}

async fn create_room(
    visit: Visit<create_room::v3::Request>,
) -> Result<create_room::v3::Response, Error> {
    let (services, caller) = (&visit.services, visit.caller()?);
    let room_id = services.rooms.create_room(caller, &visit.request).await?;
    services.personal.bring_along(caller, &room_id).await;
    Ok(create_room::v3::Response::new(room_id))
}

async fn send_event(visit: Visit<send_message_event::v3::Request>) -> Result<String, Error> {
    if let Some(delay_ms) = delay_ms(&visit.uri)? {
        let request = &visit.request;
        let named = (request.event_type.to_string(), None, Some(&*request.txn_id));
        let asked = (&request.body, delay_ms);
        return schedule_from_query(&visit, &request.room_id, named, asked).await;
    }
    let (services, caller) = (&visit.services, visit.caller()?);
    let event_id = services.rooms.send_event(caller, &visit.request).await?;
    services.reading.seen_active(caller);
    Ok(json!({ "event_id": event_id }).to_string())
}

async fn upgrade(
    visit: Visit<upgrade_room::v3::Request>,
) -> Result<upgrade_room::v3::Response, Error> {
    let asked = &visit.request;
    let upgrade = Upgrade {
        version: asked.new_version.clone(),
        additional_creators: asked.additional_creators.clone(),
    };
    let rooms = &visit.services.rooms;
    let room_id = rooms.upgrade(visit.caller()?, &asked.room_id, &upgrade).await?;
    visit.services.personal.bring_along(visit.caller()?, &room_id).await;
    Ok(upgrade_room::v3::Response::new(room_id))
}

async fn event_at(
    visit: Visit<get_event_by_timestamp::v1::Request>,
) -> Result<get_event_by_timestamp::v1::Response, Error> {
    let asked = &visit.request;
    let direction = match asked.dir {
        RumaDirection::Backward => Direction::Backward,
        RumaDirection::Forward => Direction::Forward,
    };
    let ts = u64::from(asked.ts.0);
    let rooms = &visit.services.rooms;
    let (event_id, at) = rooms.event_at(visit.caller()?, &asked.room_id, (ts, direction)).await?;
    let at = MilliSecondsSinceUnixEpoch(UInt::new_saturating(at));
    Ok(get_event_by_timestamp::v1::Response::new(event_id, at))
}
