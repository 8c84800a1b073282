//! `/_matrix/federation/v1/publicRooms`: the rooms that this server publishes, for servers on its list.

use appliance_model::Error;
use appliance_model::ruma::api::federation::directory::{
    get_public_rooms, get_public_rooms_filtered,
};
use axum::response::Response;

use crate::client::spaces::{Asked, answer_directory};
use crate::json::read_json;
use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<get_public_rooms::v1::Request, _, _>(list);
    routes.serve_raw_as::<get_public_rooms_filtered::v1::Request, _, _>(search);
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let limit = visit.request.query("limit").map(|limit| limit.parse());
    let limit = limit.transpose().map_err(|_| Error::invalid_param("`limit` is a number."))?;
    let asked = Asked { limit, since: visit.request.query("since"), ..Asked::default() };
    answer_directory(&visit.services, asked).await
}

async fn search(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let asked: Asked = read_json(&mut visit.request).await?;
    answer_directory(&visit.services, asked).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::town::Town;

    #[tokio::test]
    async fn people_see_the_published_rooms_of_the_other_hospital() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let nurse = town.desk(0).sign_up("nurse").await;
        let doctor = town.desk(1).sign_up("doctor").await;
        for name in ["Lobby", "Canteen"] {
            let body = json!({ "name": name, "visibility": "public" });
            town.desk(0).post("/v3/createRoom", &nurse, body).await.ok();
        }
        let path = "/v3/publicRooms?server=a.example&limit=1";
        let page = town.desk(1).get(path, &doctor).await.ok();
        assert_eq!(page["total_room_count_estimate"], 2, "{page}");
        let next = page["next_batch"].as_str().unwrap();
        let path = format!("/v3/publicRooms?server=a.example&since={next}");
        let rest = town.desk(1).get(&path, &doctor).await.ok();
        assert_eq!(rest["chunk"].as_array().unwrap().len(), 1, "{rest}");
        let body = json!({ "filter": { "generic_search_term": "lob" } });
        let path = "/v3/publicRooms?server=a.example";
        let found = town.desk(1).post(path, &doctor, body).await.ok();
        assert_eq!(found["chunk"][0]["name"], "Lobby", "{found}");
        let nowhere = town.desk(1).get("/v3/publicRooms?server=c.example", &doctor).await;
        assert_eq!(nowhere.error(), (502, "M_UNKNOWN"), "{nowhere:?}");
    }
}
