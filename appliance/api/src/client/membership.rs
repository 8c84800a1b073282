//! Membership: joining, leaving, inviting, removing, knocking, forgetting.

use appliance_model::ruma::api::client::knock::knock_room;
use appliance_model::ruma::api::client::membership::{
    ban_user, forget_room, invite_user, join_room_by_id, join_room_by_id_or_alias, joined_rooms,
    kick_user, leave_room, unban_user,
};
use appliance_model::ruma::{
    CanonicalJsonObject, OwnedRoomId, OwnedServerName, RoomId, RoomOrAliasId,
};
use appliance_model::{Caller, Error, Kind};
use appliance_services::Services;
use appliance_services::rooms::{Joining, Removal};
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use crate::json::{answer, read_json_or_nothing};
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<join_room_by_id::v3::Request, _, _>(join);
    routes.serve_raw_as::<join_room_by_id_or_alias::v3::Request, _, _>(join_by_name);
    routes.serve(leave);
    routes.serve(invite);
    routes.serve(kick);
    routes.serve(ban);
    routes.serve(unban);
    routes.serve(forget);
    routes.serve(knock);
    routes.serve(joined);
}

/// What comes with a join. Ruma's types drop what they do not know; it belongs into the member event.
#[derive(Default, Deserialize)]
struct JoinBody {
    reason: Option<String>,
    third_party_signed: Option<IgnoredAny>,
    #[serde(flatten)]
    more: CanonicalJsonObject,
}

async fn join(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let joining = read_joining(&mut visit).await?;
    let room_id = RoomId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path names a room by ID."))?;
    let caller = visit.caller()?.clone();
    come_in(&visit.services, &caller, room_id, (Vec::new(), joining)).await
}

async fn join_by_name(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let joining = read_joining(&mut visit).await?;
    let name = RoomOrAliasId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path names a room by ID or alias."))?;
    let (room_id, known) = room_named(&visit.services, &name).await?;
    // "server_name: … deprecated in favour of via."
    let said = [visit.request.queries("via"), visit.request.queries("server_name")];
    let said = said.into_iter().flatten().map(|name| OwnedServerName::try_from(name.as_str()));
    let said: Vec<_> = said
        .collect::<Result<_, _>>()
        .map_err(|_| Error::invalid_param("`via` is no list of server names."))?;
    let via = [said, known].concat();
    let caller = visit.caller()?.clone();
    come_in(&visit.services, &caller, room_id, (via, joining)).await
}

async fn read_joining(visit: &mut Visit<RawRequest>) -> Result<Joining, Error> {
    // Many clients send no body at all.
    let body: Option<JoinBody> = read_json_or_nothing(&mut visit.request).await?;
    let JoinBody { reason, third_party_signed, more } = body.unwrap_or_default();
    match third_party_signed {
        Some(_) => Err(no_third_party_invites()),
        None => Ok(Joining { reason, more }),
    }
}

async fn come_in(
    services: &Services,
    caller: &Caller,
    room_id: OwnedRoomId,
    (via, joining): (Vec<OwnedServerName>, Joining),
) -> Result<Response, Error> {
    services.rooms.join_via(caller, &room_id, &via, joining).await?;
    services.personal.bring_along(caller, &room_id).await;
    services.reading.seen_active(caller);
    answer(&json!({ "room_id": room_id }))
}

/// A room, and the servers that are said to know it.
pub(super) async fn room_named(
    services: &Services,
    name: &RoomOrAliasId,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>), Error> {
    match <&appliance_model::ruma::RoomId>::try_from(name) {
        Ok(room_id) => Ok((room_id.to_owned(), Vec::new())),
        Err(alias) => services.rooms.find_alias(alias).await,
    }
}

fn no_third_party_invites() -> Error {
    Error::invalid_param("This server takes no third-party invites: invite people by Matrix ID.")
}

async fn leave(visit: Visit<leave_room::v3::Request>) -> Result<leave_room::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let administration = &visit.services.administration;
    // "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM: … the room is a server notice room and the user … cannot
    // reject the invite": who has seen the notices may leave them.
    if administration.calls_to_notices(caller, &request.room_id).await? {
        return Err(Error::new(
            Kind::CannotLeaveServerNoticeRoom,
            "The server has something to tell you there. You can leave after you have come.",
        ));
    }
    visit.services.rooms.leave(caller, &request.room_id, request.reason.clone()).await?;
    Ok(leave_room::v3::Response::new())
}

async fn invite(
    visit: Visit<invite_user::v3::Request>,
) -> Result<invite_user::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let invite_user::v3::InvitationRecipient::UserId(invite_user::v3::InviteUserId {
        user_id,
        reason,
        ..
    }) = &request.recipient
    else {
        return Err(no_third_party_invites());
    };
    visit.services.rooms.invite(caller, &request.room_id, user_id, reason.clone()).await?;
    Ok(invite_user::v3::Response::new())
}

async fn kick(visit: Visit<kick_user::v3::Request>) -> Result<kick_user::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let what = (Removal::Kick, &*request.user_id);
    visit.services.rooms.remove(caller, &request.room_id, what, request.reason.clone()).await?;
    Ok(kick_user::v3::Response::new())
}

async fn ban(visit: Visit<ban_user::v3::Request>) -> Result<ban_user::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let what = (Removal::Ban, &*request.user_id);
    visit.services.rooms.remove(caller, &request.room_id, what, request.reason.clone()).await?;
    Ok(ban_user::v3::Response::new())
}

async fn unban(visit: Visit<unban_user::v3::Request>) -> Result<unban_user::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let what = (Removal::Unban, &*request.user_id);
    visit.services.rooms.remove(caller, &request.room_id, what, request.reason.clone()).await?;
    Ok(unban_user::v3::Response::new())
}

async fn forget(
    visit: Visit<forget_room::v3::Request>,
) -> Result<forget_room::v3::Response, Error> {
    visit.services.rooms.forget(visit.caller()?, &visit.request.room_id).await?;
    Ok(forget_room::v3::Response::new())
}

async fn knock(visit: Visit<knock_room::v3::Request>) -> Result<knock_room::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let (room_id, mut via) = room_named(&visit.services, &request.room_id_or_alias).await?;
    via.splice(0..0, request.via.iter().cloned());
    visit.services.rooms.knock_via(caller, &room_id, &via, request.reason.clone()).await?;
    Ok(knock_room::v3::Response::new(room_id))
}

async fn joined(
    visit: Visit<joined_rooms::v3::Request>,
) -> Result<joined_rooms::v3::Response, Error> {
    let rooms = visit.services.rooms.joined_rooms(visit.caller()?).await?;
    Ok(joined_rooms::v3::Response::new(rooms))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    const NURSE: &str = "@nurse:hospital.example";
    const DOCTOR: &str = "@doctor:hospital.example";

    #[tokio::test]
    async fn a_visit_from_knock_to_forget() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let body = json!({
            "room_alias_name": "ward4",
            "initial_state": [{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }],
        });
        let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        let at = |verb: &str| format!("/v3/rooms/{room}/{verb}");
        let alias = "%23ward4:hospital.example";
        let why = json!({ "reason": "Visiting Mrs Miller" });

        let refused = desk.post(&format!("/v3/join/{alias}"), &doctor, json!({})).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
        let knocked = desk.post(&format!("/v3/knock/{alias}"), &doctor, why).await.ok();
        assert_eq!(knocked, json!({ "room_id": room }));
        let invite = json!({ "user_id": DOCTOR });
        assert_eq!(desk.post(&at("invite"), &nurse, invite).await.ok(), json!({}));
        // Clients leave out a body that has nothing to say.
        let joined = desk.post(&format!("/v3/join/{alias}"), &doctor, Value::Null).await.ok();
        assert_eq!(joined, json!({ "room_id": room }));
        let again = desk.post(&at("join"), &doctor, Value::Null).await.ok();
        assert_eq!(again, json!({ "room_id": room }));
        let rooms = desk.get("/v3/joined_rooms", &doctor).await.ok();
        assert_eq!(rooms, json!({ "joined_rooms": [room] }));

        let nobody = json!({ "user_id": "@nobody:hospital.example" });
        assert_eq!(desk.post(&at("invite"), &nurse, nobody).await.error(), (404, "M_NOT_FOUND"));
        let by_mail = json!({
            "id_server": "id.example", "id_access_token": "x", "medium": "email",
            "address": "visitor@mail.example",
        });
        let by_mail = desk.post(&at("invite"), &nurse, by_mail).await;
        assert_eq!(by_mail.error(), (400, "M_INVALID_PARAM"));
        let too_high = desk.post(&at("kick"), &doctor, json!({ "user_id": NURSE })).await;
        assert_eq!(too_high.error(), (403, "M_FORBIDDEN"));
        assert_eq!(desk.post(&at("forget"), &doctor, json!({})).await.status, 400);

        let them = json!({ "user_id": DOCTOR, "reason": "Quiet hours" });
        assert_eq!(desk.post(&at("unban"), &nurse, them.clone()).await.status, 403);
        for verb in ["kick", "ban", "unban"] {
            assert_eq!(desk.post(&at(verb), &nurse, them.clone()).await.ok(), json!({}), "{verb}");
        }
        assert_eq!(desk.post(&at("leave"), &doctor, Value::Null).await.ok(), json!({}));
        assert_eq!(desk.post(&at("forget"), &doctor, Value::Null).await.ok(), json!({}));
        let rooms = desk.get("/v3/joined_rooms", &doctor).await.ok();
        assert_eq!(rooms, json!({ "joined_rooms": [] }));
        let unknown = desk.post("/v3/rooms/!x:hospital.example/leave", &doctor, json!({})).await;
        assert_eq!(unknown.error(), (404, "M_NOT_FOUND"));
    }
}
