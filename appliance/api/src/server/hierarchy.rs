//! `GET /_matrix/federation/v1/hierarchy/{roomId}`: a space of this server's, one level deep.

use appliance_model::Error;
use appliance_model::ruma::RoomId;
use appliance_model::ruma::api::federation::space::get_hierarchy;
use axum::response::Response;
use http::StatusCode;

use crate::route::{RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_hierarchy::v1::Request, _, _>(hierarchy);
}

async fn hierarchy(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let origin = visit.origin()?.to_owned();
    let room_id = RoomId::parse(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("The path has no room ID."))?;
    let suggested_only = visit.request.query("suggested_only").as_deref() == Some("true");
    let rooms = &visit.services.rooms;
    let found = rooms.hierarchy_for_server(&origin, &room_id, suggested_only).await?;
    Ok(json_response(StatusCode::OK, found))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::town::Town;

    #[tokio::test]
    async fn a_space_is_shown_with_what_of_it_is_open() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let make = async |body: Value| {
            town.desk(0).post("/v3/createRoom", &nurse, body).await.text("room_id")
        };
        let space = make(json!({
            "name": "House", "preset": "public_chat", "creation_content": { "type": "m.space" },
        }))
        .await;
        let open = make(json!({ "name": "Lobby", "preset": "public_chat" })).await;
        let closed = make(json!({ "name": "Closed" })).await;
        for room in [&open, &closed] {
            let path = format!("/v3/rooms/{space}/state/m.space.child/{room}");
            town.desk(0).call("PUT", &path, &nurse, json!({ "via": ["a.example"] })).await.ok();
        }
        let ask = async |room: &str| {
            let path = format!("/hierarchy/{room}");
            town.ask(1, "a.example", "GET", &path, Value::Null).await
        };
        let (status, found) = ask(&space).await;
        assert_eq!((status, found["room"]["name"].as_str()), (200, Some("House")), "{found}");
        assert_eq!(found["room"]["children_state"].as_array().unwrap().len(), 2);
        assert_eq!(found["children"][0]["name"], "Lobby");
        assert_eq!(found["inaccessible_children"], json!([closed]));
        assert_eq!(ask(&closed).await.0, 404);
        assert_eq!(ask("!nowhere:a.example").await.0, 404);

        // People of the other hospital walk the tree too.
        let doctor = town.desk(1).sign_up("doctor").await;
        let path = format!("/v1/rooms/{space}/hierarchy");
        let tree = town.desk(1).get(&path, &doctor).await.ok();
        let names: Vec<_> =
            tree["rooms"].as_array().unwrap().iter().map(|room| room["name"].as_str()).collect();
        assert_eq!(names, [Some("House"), Some("Lobby")], "{tree}");
        assert_eq!(tree["rooms"][0]["children_state"].as_array().unwrap().len(), 2);
        let path = format!("/v1/room_summary/{open}?via=a.example");
        let summary = town.desk(1).get(&path, &doctor).await.ok();
        assert_eq!((&summary["name"], &summary["membership"]), (&json!("Lobby"), &json!("leave")));
        let path = format!("/v1/room_summary/{closed}?via=a.example&via=c.example");
        assert_eq!(town.desk(1).get(&path, &doctor).await.status, 404);
    }
}
