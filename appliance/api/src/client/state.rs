//! A room's state and members. The lists are written from the stored events, not through types.

use appliance_model::Error;
use appliance_model::ruma::api::client::membership::{get_member_events, joined_members};
use appliance_model::ruma::api::client::state::{
    get_state_event_for_key, get_state_events, send_state_event,
};
use appliance_services::rooms::{MembersQuery, StateForm};
use appliance_services::sync::token::timeline_place;

use crate::route::{Routes, Visit};

/// "When an empty string, the trailing slash on this endpoint is optional."
const WITHOUT_KEY: [&str; 4] = [
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}",
    "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/",
    "/_matrix/client/v3/rooms/{room_id}/state/{event_type}/",
];

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_json(all);
    routes.serve_json(one);
    routes.serve(set);
    for path in WITHOUT_KEY {
        routes.serve_json_at(path, one);
        routes.serve_at(path, set);
    }
    routes.serve_json(members);
    routes.serve_json(joined);
}

async fn all(visit: Visit<get_state_events::v3::Request>) -> Result<String, Error> {
    visit.services.rooms.full_state(visit.caller()?, &visit.request.room_id).await
}

async fn one(visit: Visit<get_state_event_for_key::v3::Request>) -> Result<String, Error> {
    use get_state_event_for_key::v3::StateEventFormat;
    let (caller, request) = (visit.caller()?, &visit.request);
    let form = match request.format {
        StateEventFormat::Event => StateForm::Event,
        StateEventFormat::Content => StateForm::Content,
        _ => return Err(Error::invalid_param("`format` is `content` or `event`.")),
    };
    let state = (&request.event_type, request.state_key.as_str());
    visit.services.rooms.state_event(caller, &request.room_id, state, form).await
}

async fn set(
    visit: Visit<send_state_event::v3::Request>,
) -> Result<send_state_event::v3::Response, Error> {
    let event_id = visit.services.rooms.send_state(visit.caller()?, &visit.request).await?;
    Ok(send_state_event::v3::Response::new(event_id))
}

async fn members(visit: Visit<get_member_events::v3::Request>) -> Result<String, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let query = MembersQuery {
        at: request.at.as_deref().map(timeline_place).transpose()?,
        membership: request.membership.clone(),
        not_membership: request.not_membership.clone(),
    };
    let chunk = visit.services.rooms.members(caller, &request.room_id, &query).await?;
    Ok(format!(r#"{{"chunk":{chunk}}}"#))
}

async fn joined(visit: Visit<joined_members::v3::Request>) -> Result<String, Error> {
    let rooms = &visit.services.rooms;
    let joined = rooms.joined_members(visit.caller()?, &visit.request.room_id).await?;
    Ok(format!(r#"{{"joined":{joined}}}"#))
}
