//! `GET /_matrix/federation/v1/query/{profile,directory}`: names that belong to this server.

use appliance_model::Error;
use appliance_model::ruma::api::federation::query::{
    get_profile_information, get_room_information,
};
use appliance_model::ruma::{RoomAliasId, UserId};
use axum::response::Response;
use serde_json::json;

use crate::json::answer;
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_profile_information::v1::Request, _, _>(get_profile);
    routes.serve_raw_as::<get_room_information::v1::Request, _, _>(get_directory);
}

async fn get_profile(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let user_id = visit.request.query("user_id").unwrap_or_default();
    let user_id = UserId::parse(user_id)
        .map_err(|_| Error::invalid_param("The parameter user_id is no user ID."))?;
    if !visit.services.house.is_ours(&user_id) {
        return Err(Error::not_found("This user is not this server's."));
    }
    let mut fields = visit.services.personal.whole_profile(&user_id).await?;
    // "The field to query. If specified, the server will only return the given field".
    if let Some(field) = visit.request.query("field") {
        fields.retain(|name, _| *name == field);
    }
    answer(&fields)
}

async fn get_directory(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let alias = visit.request.query("room_alias").unwrap_or_default();
    let alias = RoomAliasId::parse(alias)
        .map_err(|_| Error::invalid_param("The parameter room_alias is no room alias."))?;
    let room_id = visit.services.rooms.resolve_alias(&alias).await?;
    answer(&json!({ "room_id": room_id, "servers": [visit.services.house.server_name] }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::town::Town;

    #[tokio::test]
    async fn names_of_the_other_hospital_can_be_looked_up() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let name = json!({ "displayname": "Nurse" });
        let path = "/v3/profile/@nurse:a.example/displayname";
        town.desk(0).call("PUT", path, &nurse, name).await.ok();
        let body = json!({ "room_alias_name": "ward" });
        let room_id = town.desk(0).post("/v3/createRoom", &nurse, body).await.text("room_id");

        let ask = |path: &'static str| town.ask(1, "a.example", "GET", path, json!(null));
        let (status, profile) = ask("/query/profile?user_id=%40nurse%3Aa.example").await;
        assert_eq!((status, profile), (200, json!({ "displayname": "Nurse" })));
        let path = "/query/profile?user_id=%40nurse%3Aa.example&field=avatar_url";
        assert_eq!(ask(path).await, (200, json!({})));
        assert_eq!(ask("/query/profile?user_id=%40nobody%3Aa.example").await.0, 404);
        assert_eq!(ask("/query/profile?user_id=nobody").await.0, 400);
        let (status, found) = ask("/query/directory?room_alias=%23ward%3Aa.example").await;
        assert_eq!((status, found["room_id"].as_str()), (200, Some(room_id.as_str())));
        assert_eq!(found["servers"], json!(["a.example"]));
        assert_eq!(ask("/query/directory?room_alias=%23none%3Aa.example").await.0, 404);
    }
}
