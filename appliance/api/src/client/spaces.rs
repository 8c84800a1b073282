//! Looking at rooms from outside: spaces, summaries, the directory of published rooms, people.

use std::sync::Arc;

use appliance_model::ruma::api::client::space::get_hierarchy;
use appliance_model::ruma::api::client::user_directory::search_users;
use appliance_model::ruma::api::federation::directory::get_public_rooms_filtered;
use appliance_model::ruma::directory::RoomTypeFilter;
use appliance_model::ruma::{OwnedRoomId, OwnedServerName, RoomOrAliasId, ServerName, UserId};
use appliance_model::{Error, Kind, RoomNid};
use appliance_services::Services;
use appliance_services::peers::ASK;
use appliance_services::rooms::{DirectoryQuery, HierarchyQuery, ROOMS_MAX};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::membership::room_named;
use crate::json::{answer, read_json};
use crate::query;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

/// Servers that a client names as knowing a room.
const VIA_MAX: usize = 10;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_json(hierarchy);
    for path in [
        "/_matrix/client/v1/room_summary/{room_id_or_alias}",
        "/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}",
        "/_matrix/client/unstable/im.nheko.summary/rooms/{room_id_or_alias}/summary",
    ] {
        routes.serve_raw(Method::GET, path, Access::Optional, summary);
    }
    for path in ["/_matrix/client/r0/publicRooms", "/_matrix/client/v3/publicRooms"] {
        routes.serve_raw(Method::GET, path, Access::Optional, directory);
        routes.serve_raw(Method::POST, path, Access::SignedIn, filtered_directory);
    }
    routes.serve(people);
    let path = "/_matrix/client/unstable/org.matrix.msc1763/retention/configuration";
    routes.serve_raw(Method::GET, path, Access::SignedIn, retention);
    for path in [
        "/_matrix/client/v1/mutual_rooms",
        "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
    ] {
        routes.serve_raw(Method::GET, path, Access::SignedIn, mutual_rooms);
    }
}

/// The token names the whole question: "max_depth and suggested_only cannot be changed".
async fn hierarchy(visit: Visit<get_hierarchy::v1::Request>) -> Result<String, Error> {
    let (caller, asked) = (visit.caller()?, &visit.request);
    let number = |number: appliance_model::ruma::UInt| u64::from(number);
    let mut query = HierarchyQuery {
        suggested_only: asked.suggested_only,
        limit: asked.limit.map(|limit| usize::try_from(number(limit)).unwrap_or(usize::MAX)),
        max_depth: asked.max_depth.map(number),
        skip: 0,
    };
    let question = format!(
        "{}_{}",
        u8::from(query.suggested_only),
        query.max_depth.map_or_else(|| "all".to_owned(), |depth| depth.to_string()),
    );
    if let Some(from) = &asked.from {
        let wrong = || {
            Error::invalid_param(
                "This is not a token of this tree; `max_depth` and `suggested_only` stay the same.",
            )
        };
        let rest = from.strip_prefix('h').ok_or_else(wrong)?;
        let (skip, same) = rest.split_once('_').ok_or_else(wrong)?;
        query.skip = skip.parse().ok().filter(|_| same == question).ok_or_else(wrong)?;
    }
    let page = visit.services.rooms.hierarchy(caller, &asked.room_id, query).await?;
    let next = page.next.map(|next| format!(r#""next_batch":"h{next}_{question}","#));
    Ok(format!(r#"{{{}"rooms":[{}]}}"#, next.unwrap_or_default(), page.rooms.join(",")))
}

/// Strangers look at nothing but where the operator opened the directory to them.
fn check_open(visit: &Visit<RawRequest>) -> Result<(), Error> {
    if visit.visitor.is_some() || visit.services.house.options.directory.rooms_open {
        return Ok(());
    }
    Err(Error::new(Kind::MissingToken, "Sign in to look at rooms."))
}

async fn summary(visit: Visit<RawRequest>) -> Result<Response, Error> {
    check_open(&visit)?;
    let name = <&RoomOrAliasId>::try_from(visit.request.param(0)?)
        .map_err(|_| Error::invalid_param("A room is named by its ID or an alias."))?;
    let (room_id, mut via): (OwnedRoomId, _) = room_named(&visit.services, name).await?;
    let named = query::values(&visit.request.uri, "via");
    via.extend(named.filter_map(|name| name.try_into().ok()).take(VIA_MAX));
    let summary = visit.services.rooms.face_for(visit.visitor.as_ref(), &room_id, &via).await?;
    let mut body = serde_json::to_value(summary).map_err(Error::internal)?;
    // What clients of before the acceptance read.
    for (old, new) in [
        ("im.nheko.summary.version", "room_version"),
        ("im.nheko.summary.encryption", "encryption"),
    ] {
        if let Some(value) = body.get(new).cloned() {
            body[old] = value;
        }
    }
    answer(&body)
}

async fn directory(visit: Visit<RawRequest>) -> Result<Response, Error> {
    check_open(&visit)?;
    let request = &visit.request;
    if let Some(server) = other_server(&visit.services, request)? {
        let asked = Asked {
            limit: request.query("limit").and_then(|limit| limit.parse().ok()),
            since: request.query("since"),
            ..Asked::default()
        };
        return rooms_of(visit.services, server, asked).await;
    }
    let limit = request.query("limit").map(|limit| limit.parse());
    let limit = limit.transpose().map_err(|_| Error::invalid_param("`limit` is a number."))?;
    let skip = skip_of(request.query("since").as_deref())?;
    page(&visit.services, DirectoryQuery { limit, skip, ..DirectoryQuery::default() }).await
}

/// What of the directory is asked for.
#[derive(Default, Deserialize)]
pub(crate) struct Asked {
    pub limit: Option<usize>,
    pub since: Option<String>,
    #[serde(default)]
    pub filter: Filter,
    pub third_party_instance_id: Option<String>,
}

/// Which rooms are asked for.
#[derive(Default, Deserialize)]
pub(crate) struct Filter {
    generic_search_term: Option<String>,
    room_types: Option<Vec<Option<String>>>,
}

async fn filtered_directory(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let server = other_server(&visit.services, &visit.request)?;
    let asked: Asked = read_json(&mut visit.request).await?;
    if let Some(server) = server {
        return rooms_of(visit.services, server, asked).await;
    }
    answer_directory(&visit.services, asked).await
}

/// The rooms of this server, for people and for servers.
pub(crate) async fn answer_directory(services: &Services, asked: Asked) -> Result<Response, Error> {
    let network = asked.third_party_instance_id.filter(|network| !network.is_empty());
    let of_network = match network {
        Some(network) => {
            let appservices = &services.appservices;
            Some(appservices.published(&network, RoomNid(0), ROOMS_MAX).await?.0)
        }
        None => None,
    };
    let query = DirectoryQuery {
        search: asked.filter.generic_search_term,
        room_types: asked.filter.room_types,
        limit: asked.limit,
        skip: skip_of(asked.since.as_deref())?,
        of_network,
    };
    page(services, query).await
}

/// The rooms of another server, as it lists them.
async fn rooms_of(
    services: Arc<Services>,
    server: OwnedServerName,
    asked: Asked,
) -> Result<Response, Error> {
    let mut request = get_public_rooms_filtered::v1::Request::new();
    request.limit = asked.limit.and_then(|limit| limit.try_into().ok());
    request.since = asked.since.filter(|since| !since.is_empty());
    request.filter.generic_search_term = asked.filter.generic_search_term;
    let types = asked.filter.room_types.unwrap_or_default();
    request.filter.room_types = types.into_iter().map(RoomTypeFilter::from).collect();
    let page = services.house.call_raw(&server, request, ASK).await?;
    Ok(json_response(StatusCode::OK, page.into_body()))
}

/// "server: The server to fetch the published room directory from."
fn other_server(
    services: &Services,
    request: &RawRequest,
) -> Result<Option<OwnedServerName>, Error> {
    let Some(server) = request.query("server").filter(|server| !server.is_empty()) else {
        return Ok(None);
    };
    let server = ServerName::parse(server)
        .map_err(|_| Error::invalid_param("`server` is the name of a server."))?;
    Ok((server != services.house.server_name).then_some(server))
}

fn skip_of(token: Option<&str>) -> Result<usize, Error> {
    let wrong = || Error::invalid_param("`since` is not a token that this server gave out.");
    match token {
        None | Some("") => Ok(0),
        Some(token) => token.strip_prefix('p').and_then(|at| at.parse().ok()).ok_or_else(wrong),
    }
}

async fn page(services: &Services, query: DirectoryQuery) -> Result<Response, Error> {
    let page = services.rooms.directory(&query).await?;
    let mut body = json!({ "chunk": page.rooms, "total_room_count_estimate": page.total });
    for (name, place) in [("next_batch", page.next), ("prev_batch", page.before)] {
        if let Some(place) = place {
            body[name] = format!("p{place}").into();
        }
    }
    answer(&body)
}

/// How long what is said lives in the caller's rooms, by the house's policy and the rooms' own state
/// ([MSC1763]): clients forget by themselves what is over.
///
/// [MSC1763]: https://github.com/matrix-org/matrix-spec-proposals/pull/1763
async fn retention(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let held = visit.services.rooms.retention_configuration(visit.caller()?).await?;
    let lifetime = |ms: u64| json!({ "max_lifetime": ms });
    let of_rooms = held.rooms_ms.iter().map(|(room_id, ms)| (room_id.to_string(), lifetime(*ms)));
    let of_all = held.everywhere_ms.map(|ms| ("*".to_owned(), lifetime(ms)));
    let policies: Map<String, Value> = of_rooms.chain(of_all).collect();
    let mut limits = json!({ "max_lifetime": { "min": held.least_ms } });
    if let Some(most_ms) = held.most_ms {
        limits["max_lifetime"]["max"] = most_ms.into();
        limits["min_lifetime"] = json!({ "max": most_ms });
    }
    answer(&json!({ "policies": policies, "limits": limits }))
}

async fn people(
    visit: Visit<search_users::v3::Request>,
) -> Result<search_users::v3::Response, Error> {
    let (caller, asked) = (visit.caller()?, &visit.request);
    let limit = usize::try_from(u64::from(asked.limit)).unwrap_or(usize::MAX);
    let (found, limited) =
        visit.services.rooms.find_users(caller, &asked.search_term, limit).await?;
    let shown = |user: appliance_services::rooms::FoundUser| {
        let mut shown = search_users::v3::User::new(user.user_id);
        shown.display_name = user.display_name;
        shown.avatar_url = user.avatar_url.map(Into::into);
        shown
    };
    Ok(search_users::v3::Response::new(found.into_iter().map(shown).collect(), limited))
}

async fn mutual_rooms(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (caller, request) = (visit.caller()?, &visit.request);
    let missing = || Error::new(Kind::MissingParam, "`user_id` says whose rooms.");
    let user_id = request.query("user_id").ok_or_else(missing)?;
    let user_id = UserId::parse(user_id)
        .map_err(|_| Error::invalid_param("`user_id` is the ID of a user."))?;
    let wrong = || Error::invalid_param("This is not a token that this server gave out.");
    let from = match request.query("from").or_else(|| request.query("batch_token")) {
        None => RoomNid(0),
        Some(token) => {
            let number = token.strip_prefix('m').and_then(|number| number.parse().ok());
            RoomNid(number.ok_or_else(wrong)?)
        }
    };
    let found = visit.services.rooms.mutual_rooms(caller, &user_id, from).await?;
    let mut body: Value = json!({ "joined": found.joined, "count": found.count });
    if let Some(next) = found.next {
        let token = format!("m{}", next.0);
        // The name of before the acceptance as well.
        body["next_batch_token"] = token.clone().into();
        body["next_batch"] = token.into();
    }
    answer(&body)
}

#[cfg(test)]
mod tests {
    use appliance_services::{DirectoryOptions, Options};
    use serde_json::json;

    use crate::scenario::{Desk, open_house};

    #[tokio::test]
    async fn spaces_and_summaries_as_clients_ask_for_them() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let create = async |body| desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        let space = create(json!({
            "name": "House", "preset": "public_chat", "room_alias_name": "house",
            "creation_content": { "type": "m.space" },
        }))
        .await;
        for name in ["a", "b", "c"] {
            let room = create(json!({ "name": name, "preset": "public_chat" })).await;
            let path = format!("/v3/rooms/{space}/state/m.space.child/{room}");
            let content = json!({ "via": ["hospital.example"], "order": name });
            desk.call("PUT", &path, &nurse, content).await.ok();
        }
        let tree = format!("/v1/rooms/{space}/hierarchy");
        let page = desk.get(&format!("{tree}?limit=3"), &doctor).await.ok();
        assert_eq!(page["rooms"][0]["children_state"][0]["content"]["order"], "a");
        assert_eq!(page["rooms"][0]["room_type"], "m.space");
        assert_eq!(page["rooms"].as_array().unwrap().len(), 3);
        let next = page["next_batch"].as_str().unwrap();
        let rest = desk.get(&format!("{tree}?limit=3&from={next}"), &doctor).await.ok();
        assert_eq!((&rest["rooms"][0]["name"], &rest["next_batch"]), (&json!("c"), &json!(null)));
        for odd in [format!("{tree}?from={next}&suggested_only=true"), format!("{tree}?from=x")] {
            assert_eq!(desk.get(&odd, &doctor).await.error(), (400, "M_INVALID_PARAM"), "{odd}");
        }
        let nowhere = desk.get("/v1/rooms/!x:hospital.example/hierarchy", &doctor).await;
        assert_eq!(nowhere.error(), (403, "M_FORBIDDEN"));

        for path in [
            "/v1/room_summary/%23house:hospital.example".to_owned(),
            format!("/v1/room_summary/{space}"),
            format!("/unstable/im.nheko.summary/summary/{space}"),
            format!("/unstable/im.nheko.summary/rooms/{space}/summary"),
        ] {
            let shown = desk.get(&path, &doctor).await.ok();
            assert_eq!((&shown["name"], &shown["membership"]), (&json!("House"), &json!("leave")));
            assert_eq!(shown["canonical_alias"], "#house:hospital.example");
            assert_eq!(desk.get(&path, "").await.error(), (401, "M_MISSING_TOKEN"));
        }
        let nowhere = desk.get("/v1/room_summary/!x:hospital.example", &doctor).await;
        assert_eq!(nowhere.error(), (404, "M_NOT_FOUND"));
        let odd = desk.get("/v1/room_summary/house", &doctor).await;
        assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
    }

    #[tokio::test]
    async fn the_directory_is_open_to_strangers_only_where_it_was_opened() {
        let rooms_open = DirectoryOptions { rooms_open: true, ..DirectoryOptions::default() };
        for (options, open) in
            [(open_house(), false), (Options { directory: rooms_open, ..open_house() }, true)]
        {
            let desk = Desk::with(options).await;
            let nurse = desk.sign_up("nurse").await;
            for name in ["Lobby", "Canteen"] {
                let body = json!({ "name": name, "visibility": "public" });
                desk.post("/v3/createRoom", &nurse, body).await.ok();
            }
            let stranger = desk.get("/v3/publicRooms?limit=1", "").await;
            assert_eq!(stranger.status, if open { 200 } else { 401 });
            let page = desk.get("/v3/publicRooms?limit=1", &nurse).await.ok();
            assert_eq!(page["total_room_count_estimate"], 2);
            assert_eq!(page["chunk"][0]["num_joined_members"], 1);
            let next = page["next_batch"].as_str().unwrap();
            let last =
                desk.get(&format!("/r0/publicRooms?limit=1&since={next}"), &nurse).await.ok();
            assert_eq!((&last["next_batch"], &last["prev_batch"]), (&json!(null), &json!("p0")));
            let word = json!({ "filter": { "generic_search_term": "lob" } });
            let found = desk.post("/v3/publicRooms", &nurse, word.clone()).await.ok();
            assert_eq!(found["chunk"][0]["name"], "Lobby");
            assert_eq!(desk.post("/v3/publicRooms", "", word.clone()).await.status, 401);
            let typed = json!({ "filter": { "room_types": ["m.space"] } });
            let found = desk.post("/v3/publicRooms", &nurse, typed).await.ok();
            assert_eq!(found["chunk"], json!([]));
            let own = "/v3/publicRooms?server=hospital.example";
            assert_eq!(desk.post(own, &nurse, word.clone()).await.status, 200);
            let other = "/v3/publicRooms?server=other.example";
            assert_eq!(desk.post(other, &nurse, word).await.status, 403, "not on the list");
            for odd in ["limit=x", "since=x", "server=a%20b"] {
                let odd = desk.get(&format!("/v3/publicRooms?{odd}"), &nurse).await;
                assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
            }
        }
    }

    #[tokio::test]
    async fn people_and_the_rooms_shared_with_them() {
        let desk = Desk::new().await;
        let (nurse, _) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let found = desk.post("/v3/user_directory/search", &nurse, json!({ "search_term": "doc" }));
        let expected = json!({ "results": [{ "user_id": "@doctor:hospital.example", "display_name": "doctor" }], "limited": false });
        assert_eq!(found.await.ok(), expected);
        for base in ["/v1/mutual_rooms", "/unstable/uk.half-shot.msc2666/user/mutual_rooms"] {
            let at = |query: &str| format!("{base}?user_id={query}");
            let shared = desk.get(&at("@doctor:hospital.example"), &nurse).await.ok();
            assert_eq!(shared, json!({ "joined": [], "count": 0 }));
            let own = desk.get(&at("@nurse:hospital.example"), &nurse).await;
            assert_eq!(own.error(), (400, "M_INVALID_PARAM"));
            assert_eq!(desk.get(&at("x"), &nurse).await.error(), (400, "M_INVALID_PARAM"));
            assert_eq!(desk.get(base, &nurse).await.error(), (400, "M_MISSING_PARAM"));
        }
    }
}
