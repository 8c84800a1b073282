//! Reporting rooms, events and people to the administrators.

use appliance_model::ruma::{EventId, RoomId, UserId};
use appliance_model::{Caller, Error};
use appliance_services::Services;
use appliance_services::rooms::Reported;
use axum::response::Response;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::json::{answer, read_json};
use crate::route::{Access, RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    for path in [
        "/_matrix/client/v3/rooms/{room_id}/report",
        "/_matrix/client/unstable/org.matrix.msc4151/rooms/{room_id}/report",
    ] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, room);
    }
    for path in [
        "/_matrix/client/r0/rooms/{room_id}/report/{event_id}",
        "/_matrix/client/v3/rooms/{room_id}/report/{event_id}",
    ] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, event);
    }
    for path in [
        "/_matrix/client/v3/users/{user_id}/report",
        "/_matrix/client/unstable/org.matrix.msc4260/users/{user_id}/report",
    ] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, user);
    }
}

/// Where a reason is required: "May be blank."
#[derive(Deserialize)]
struct Reason {
    reason: String,
}

/// Of an event it is not required; the score is that of clients of before v1.8.
#[derive(Deserialize)]
struct EventReason {
    reason: Option<String>,
    score: Option<i64>,
}

async fn room(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let Reason { reason } = read_json(&mut visit.request).await?;
    let room_id = RoomId::parse(visit.request.param(0)?).map_err(|_| no_id())?;
    keep(&visit.services, visit.caller()?, Reported::Room(&room_id), (Some(reason), None)).await
}

async fn event(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let EventReason { reason, score } = read_json(&mut visit.request).await?;
    let room_id = RoomId::parse(visit.request.param(0)?).map_err(|_| no_id())?;
    let event_id = EventId::parse(visit.request.param(1)?).map_err(|_| no_id())?;
    keep(&visit.services, visit.caller()?, Reported::Event(&room_id, &event_id), (reason, score))
        .await
}

async fn user(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let Reason { reason } = read_json(&mut visit.request).await?;
    let user_id = UserId::parse(visit.request.param(0)?).map_err(|_| no_id())?;
    keep(&visit.services, visit.caller()?, Reported::User(&user_id), (Some(reason), None)).await
}

async fn keep(
    services: &Services,
    caller: &Caller,
    what: Reported<'_>,
    said: (Option<String>, Option<i64>),
) -> Result<Response, Error> {
    services.rooms.report(caller, what, said).await?;
    answer(&json!({}))
}

fn no_id() -> Error {
    Error::invalid_param("The path names a room, an event or a user by ID.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    #[tokio::test]
    async fn reports_of_all_three_kinds() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let room = desk.post("/v3/createRoom", &nurse, json!({})).await.text("room_id");
        let send = format!("/v3/rooms/{room}/send/m.room.message/1");
        let said = desk.call("PUT", &send, &nurse, json!({ "body": "x", "msgtype": "m.text" }));
        let event = said.await.text("event_id");
        let why = json!({ "reason": "rude", "score": -100 });
        for path in [
            format!("/v3/rooms/{room}/report"),
            format!("/v3/rooms/{room}/report/{event}"),
            "/v3/users/@doctor:hospital.example/report".to_owned(),
        ] {
            assert_eq!(desk.post(&path, &nurse, why.clone()).await.ok(), json!({}), "{path}");
            let odd = desk.post(&path, &nurse, json!({ "reason": 7 })).await;
            assert_eq!(odd.error(), (400, "M_BAD_JSON"), "{path}");
        }
        let bare = desk.post(&format!("/v3/rooms/{room}/report"), &nurse, json!({})).await;
        assert_eq!(bare.error(), (400, "M_BAD_JSON"), "a reason is required, if only an empty one");
        let hidden = desk.post(&format!("/v3/rooms/{room}/report/{event}"), &doctor, why).await;
        assert_eq!(hidden.error(), (404, "M_NOT_FOUND"));
    }
}
