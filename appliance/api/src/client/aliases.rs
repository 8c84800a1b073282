//! Room aliases, and whether a room is in the published directory.

use appliance_model::ruma::OwnedRoomAliasId;
use appliance_model::ruma::api::client::alias::{create_alias, delete_alias, get_alias};
use appliance_model::ruma::api::client::directory::{get_room_visibility, set_room_visibility};
use appliance_model::ruma::api::client::room::{Visibility, aliases};
use appliance_model::{Error, Kind};

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(create);
    routes.serve(resolve);
    routes.serve(delete);
    routes.serve(of_room);
    routes.serve(is_published);
    routes.serve(publish);
}

async fn create(
    visit: Visit<create_alias::v3::Request>,
) -> Result<create_alias::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let created =
        visit.services.rooms.create_alias(caller, &request.room_alias, &request.room_id).await;
    created.map_err(|error| match error.kind {
        // "409: A room alias with that name already exists … M_UNKNOWN".
        Kind::RoomInUse => Error::new(Kind::AliasExists, error.message),
        _ => error,
    })?;
    Ok(create_alias::v3::Response::new())
}

async fn resolve(visit: Visit<get_alias::v3::Request>) -> Result<get_alias::v3::Response, Error> {
    let services = &visit.services;
    let (room_id, mut servers) = services.rooms.find_alias(&visit.request.room_alias).await?;
    if servers.is_empty() {
        servers.push(services.house.server_name.clone());
    }
    Ok(get_alias::v3::Response::new(room_id, servers))
}

async fn delete(
    visit: Visit<delete_alias::v3::Request>,
) -> Result<delete_alias::v3::Response, Error> {
    visit.services.rooms.delete_alias(visit.caller()?, &visit.request.room_alias).await?;
    Ok(delete_alias::v3::Response::new())
}

async fn of_room(visit: Visit<aliases::v3::Request>) -> Result<aliases::v3::Response, Error> {
    let aliases = visit.services.rooms.aliases(visit.caller()?, &visit.request.room_id).await?;
    let parse = |alias: String| OwnedRoomAliasId::try_from(alias).map_err(Error::internal);
    let aliases = aliases.into_iter().map(parse).collect::<Result<_, _>>()?;
    Ok(aliases::v3::Response::new(aliases))
}

async fn is_published(
    visit: Visit<get_room_visibility::v3::Request>,
) -> Result<get_room_visibility::v3::Response, Error> {
    let published = visit.services.rooms.is_published(&visit.request.room_id).await?;
    let visibility = if published { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

async fn publish(
    visit: Visit<set_room_visibility::v3::Request>,
) -> Result<set_room_visibility::v3::Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let published = match request.visibility {
        Visibility::Public => true,
        Visibility::Private => false,
        _ => return Err(Error::invalid_param("`visibility` is `public` or `private`.")),
    };
    visit.services.rooms.publish(caller, &request.room_id, published).await?;
    Ok(set_room_visibility::v3::Response::new())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    #[tokio::test]
    async fn an_alias_and_the_directory() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let body = json!({ "visibility": "public", "room_version": "12" });
        let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        let alias = "/v3/directory/room/%23beds%2F4:hospital.example";
        let to = json!({ "room_id": room });
        assert_eq!(desk.get(alias, "").await.error(), (404, "M_NOT_FOUND"));
        let stranger = desk.call("PUT", alias, &doctor, to.clone()).await;
        assert_eq!(stranger.error(), (403, "M_FORBIDDEN"));
        assert_eq!(desk.call("PUT", alias, &nurse, to.clone()).await.ok(), json!({}));
        let taken = desk.call("PUT", alias, &nurse, to).await;
        assert_eq!(taken.error(), (409, "M_UNKNOWN"));
        let found = desk.get(alias, "").await.ok();
        assert_eq!(found, json!({ "room_id": room, "servers": ["hospital.example"] }));
        let of_room = desk.get(&format!("/v3/rooms/{room}/aliases"), &nurse).await.ok();
        assert_eq!(of_room, json!({ "aliases": ["#beds/4:hospital.example"] }));
        let refused = desk.call("DELETE", alias, &doctor, json!({})).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
        assert_eq!(desk.call("DELETE", alias, &nurse, json!({})).await.ok(), json!({}));
        assert_eq!(desk.get(alias, "").await.status, 404);

        let list = format!("/v3/directory/list/room/{room}");
        assert_eq!(desk.get(&list, "").await.ok(), json!({ "visibility": "public" }));
        let hide = json!({ "visibility": "private" });
        let refused = desk.call("PUT", &list, &doctor, hide.clone()).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
        desk.call("PUT", &list, &nurse, hide.clone()).await.ok();
        assert_eq!(desk.get(&list, "").await.ok(), hide);
        let odd = desk.call("PUT", &list, &nurse, json!({ "visibility": "secret" })).await;
        assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
    }
}
