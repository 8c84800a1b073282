//! Rooms: creating, sending.

use appliance_model::Error;
use appliance_model::ruma::api::client::message::send_message_event;
use appliance_model::ruma::api::client::room::create_room;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(create_room);
    routes.serve(send_event);
}

async fn create_room(
    visit: Visit<create_room::v3::Request>,
) -> Result<create_room::v3::Response, Error> {
    let room_id = visit.services.rooms.create_room(visit.caller()?, &visit.request).await?;
    Ok(create_room::v3::Response::new(room_id))
}

async fn send_event(
    visit: Visit<send_message_event::v3::Request>,
) -> Result<send_message_event::v3::Response, Error> {
    let event_id = visit.services.rooms.send_event(visit.caller()?, &visit.request).await?;
    Ok(send_message_event::v3::Response::new(event_id))
}
