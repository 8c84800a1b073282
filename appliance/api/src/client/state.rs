//! A room's state and members. The lists are written from the stored events, not through types.

use appliance_model::Error;
use appliance_model::ruma::api::client::membership::{get_member_events, joined_members};
use appliance_model::ruma::api::client::state::{
    get_state_event_for_key, get_state_events, send_state_event,
};
use appliance_services::rooms::{MembersQuery, StateForm};
use appliance_services::sync::token::timeline_place;

use serde_json::json;

use super::delayed::{delay_ms, schedule_from_query};
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
    routes.serve_json(set);
    for path in WITHOUT_KEY {
        routes.serve_json_at(path, one);
        routes.serve_json_at(path, set);
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

async fn set(visit: Visit<send_state_event::v3::Request>) -> Result<String, Error> {
    if let Some(delay_ms) = delay_ms(&visit.uri)? {
        let request = &visit.request;
        let state_key = Some(request.state_key.clone());
        let named = (request.event_type.to_string(), state_key, None);
        let asked = (&request.body, delay_ms);
        return schedule_from_query(&visit, &request.room_id, named, asked).await;
    }
    let event_id = visit.services.rooms.send_state(visit.caller()?, &visit.request).await?;
    Ok(json!({ "event_id": event_id }).to_string())
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    #[tokio::test]
    async fn every_spelling_of_a_state_path() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        for version in ["11", "12"] {
            let body = json!({ "room_version": version, "name": "Ward 4" });
            let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
            let at = |tail: &str| format!("/v3/rooms/{room}/{tail}");
            for tail in ["state/m.room.name", "state/m.room.name/"] {
                let put = |name: &str| json!({ "name": format!("{name} {tail}") });
                let path = at(tail);
                let set = desk.call("PUT", &path, &nurse, put("v3")).await;
                assert!(set.text("event_id").starts_with('$'), "{tail}");
                assert_eq!(desk.get(&path, &nurse).await.ok(), put("v3"));
                let old = path.replace("/v3/", "/r0/");
                desk.call("PUT", &old, &nurse, put("r0")).await.ok();
                assert_eq!(desk.get(&old, &nurse).await.ok(), put("r0"));
            }
            let bed = at("state/example.bed/4%2Fwindow%20seat");
            desk.call("PUT", &bed, &nurse, json!({ "free": true })).await.ok();
            assert_eq!(desk.get(&bed, &nurse).await.ok(), json!({ "free": true }));
            let whole = desk.get(&format!("{bed}?format=event"), &nurse).await.ok();
            assert_eq!(whole["state_key"], "4/window seat");
            assert_eq!(whole["room_id"], room.as_str());
            let odd = desk.get(&format!("{bed}?format=poem"), &nurse).await;
            assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
            let none = desk.get(&at("state/example.bed"), &nurse).await;
            assert_eq!(none.error(), (404, "M_NOT_FOUND"));

            let all = desk.get(&at("state"), &nurse).await.ok();
            assert_eq!(all.as_array().map(Vec::len), Some(8), "{all}");
            let members = desk.get(&at("members?not_membership=leave"), &nurse).await.ok();
            assert_eq!(members["chunk"][0]["content"]["membership"], "join");
            let odd = desk.get(&at("members?at=yesterday"), &nurse).await;
            assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
            let joined = desk.get(&at("joined_members"), &nurse).await.ok();
            let name = json!({ "avatar_url": null, "display_name": "nurse" });
            assert_eq!(joined, json!({ "joined": { "@nurse:hospital.example": name } }));
            for tail in ["state", "state/m.room.name/", "members", "joined_members"] {
                let stranger = desk.get(&at(tail), &doctor).await;
                assert_eq!(stranger.error(), (403, "M_FORBIDDEN"), "{tail}");
            }
            let not_json = desk.call_raw("PUT", &bed, &nurse, "{".to_owned()).await;
            assert_eq!(not_json.error(), (400, "M_NOT_JSON"));
            let no_object = desk.call("PUT", &bed, &nurse, json!([1])).await;
            assert_eq!(no_object.error(), (400, "M_BAD_JSON"));
            assert_eq!(desk.call("PUT", &bed, &nurse, Value::Null).await.status, 400);
        }
    }
}
