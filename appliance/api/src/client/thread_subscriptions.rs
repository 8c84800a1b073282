//! Thread subscriptions (MSC4306) and catching up with them (MSC4308).

use appliance_model::ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId};
use appliance_model::{Error, Position};
use appliance_services::personal::Cause;
use appliance_services::sync::known_upto;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

const PATH: &str =
    "/_matrix/client/unstable/io.element.msc4306/rooms/{room_id}/thread/{thread_root}/subscription";
const LIST: &str = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions";

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw(Method::PUT, PATH, Access::SignedIn, subscribe);
    routes.serve_raw(Method::GET, PATH, Access::SignedIn, get);
    routes.serve_raw(Method::DELETE, PATH, Access::SignedIn, unsubscribe);
    routes.serve_raw(Method::GET, LIST, Access::SignedIn, list);
}

fn thread_of(request: &RawRequest) -> Result<(OwnedRoomId, OwnedEventId), Error> {
    let room_id = RoomId::parse(request.param(0)?)
        .map_err(|_| Error::invalid_param("This is not a room ID."))?;
    let root = EventId::parse(request.param(1)?)
        .map_err(|_| Error::invalid_param("This is not an event ID."))?;
    Ok((room_id, root))
}

/// The first drafts said whether, the present one says for which event.
#[derive(Deserialize)]
#[serde(untagged)]
enum Automatic {
    Said(bool),
    For(OwnedEventId),
}

#[derive(Deserialize)]
struct Body {
    automatic: Option<Automatic>,
}

async fn subscribe(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let body: Body = read_json(&mut visit.request).await?;
    let cause = match body.automatic {
        None | Some(Automatic::Said(false)) => Cause::Manual,
        Some(Automatic::Said(true)) => Cause::Automatic,
        Some(Automatic::For(event_id)) => Cause::Event(event_id),
    };
    let (room_id, root) = thread_of(&visit.request)?;
    let caller = visit.caller()?;
    visit.services.personal.subscribe_thread(caller, (&room_id, &root), cause).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

async fn get(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, root) = thread_of(&visit.request)?;
    let personal = &visit.services.personal;
    let automatic = personal.thread_subscription(visit.caller()?, (&room_id, &root)).await?;
    Ok(json_response(StatusCode::OK, json!({ "automatic": automatic }).to_string()))
}

async fn unsubscribe(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (room_id, root) = thread_of(&visit.request)?;
    let personal = &visit.services.personal;
    personal.unsubscribe_thread(visit.caller()?, (&room_id, &root)).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

/// Released clients give the `pos` of the sliding sync that told them of a gap as `to`.
fn place(request: &RawRequest, name: &str) -> Result<Option<Position>, Error> {
    request.query(name).map(|token| known_upto(&token)).transpose()
}

async fn list(visit: Visit<RawRequest>) -> Result<Response, Error> {
    if visit.request.query("dir").is_some_and(|dir| dir != "b") {
        return Err(Error::invalid_param("Thread subscriptions are read backwards: `dir` is `b`."));
    }
    let newest = visit.services.house.ledger.position();
    let upto = place(&visit.request, "from")?.unwrap_or(newest);
    let after = place(&visit.request, "to")?.unwrap_or_default();
    let not_a_number = |_| Error::invalid_param("`limit` is a number.");
    let limit = visit.request.query("limit").map(|limit| limit.parse::<usize>()).transpose();
    let limit = limit.map_err(not_a_number)?;
    let user = visit.caller()?.user;
    let personal = &visit.services.personal;
    let page = personal.subscription_page(user, (after, upto), limit).await?;
    let mut answer = page.shown;
    if let Some(older) = page.older {
        answer.insert("end".to_owned(), older.into());
    }
    Ok(json_response(StatusCode::OK, Value::Object(answer).to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    const SYNC: &str = "/unstable/org.matrix.simplified_msc3575/sync";
    const EXTENSION: &str = "io.element.msc4308.thread_subscriptions";

    async fn thread(desk: &Desk, token: &str, room: &str, number: usize) -> String {
        let body = json!({ "msgtype": "m.text", "body": format!("Bed {number}") });
        let path = format!("/v3/rooms/{room}/send/m.room.message/{number}");
        let root = desk.call("PUT", &path, token, body).await.text("event_id");
        let path = path_of(room, &root);
        desk.call("PUT", &path, token, json!({})).await.ok();
        root
    }

    fn path_of(room: &str, root: &str) -> String {
        format!("/unstable/io.element.msc4306/rooms/{room}/thread/{root}/subscription")
    }

    async fn sync(desk: &Desk, token: &str, query: &str, limit: usize) -> (Value, String) {
        let extension = json!({ "enabled": true, "limit": limit });
        let body = json!({ "extensions": { EXTENSION: extension } });
        let answer = desk.post(&format!("{SYNC}?{query}"), token, body).await.ok();
        let pos = answer["pos"].as_str().unwrap().to_owned();
        (answer["extensions"][EXTENSION].clone(), pos)
    }

    /// The newest come with the sync; what it has no room for is fetched page by page, between the
    /// token that it gave and the `pos` that it was asked with, as matrix-sdk does.
    #[tokio::test]
    async fn sliding_sync_tells_of_threads_and_the_rest_is_caught_up_with() {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        let room = desk.post("/v3/createRoom", &token, json!({})).await.text("room_id");
        let known = thread(&desk, &token, &room, 0).await;
        let (first, pos) = sync(&desk, &token, "timeout=0", 100).await;
        assert_eq!(first["subscribed"][&room][&known]["automatic"], false);
        assert!(first["subscribed"][&room][&known]["bump_stamp"].is_u64());
        assert_eq!(first.get("prev_batch"), None);
        let (idle, pos) = sync(&desk, &token, &format!("timeout=0&pos={pos}"), 100).await;
        assert_eq!(idle, Value::Null, "nothing is said where nothing changed");

        // A long-poll wakes.
        let query = format!("timeout=30000&pos={pos}");
        let (woken, other) =
            tokio::join!(sync(&desk, &token, &query, 100), thread(&desk, &token, &room, 1));
        let (_, mut pos) = woken;
        let (late, later) = sync(&desk, &token, &format!("timeout=0&pos={pos}"), 100).await;
        if late != Value::Null {
            pos = later;
        }
        let told =
            [&woken.0, &late].iter().any(|part| part["subscribed"][&room][&other].is_object());
        assert!(told, "{} {late}", woken.0);

        let mut roots = Vec::new();
        for number in 2..7 {
            roots.push(thread(&desk, &token, &room, number).await);
        }
        desk.call("DELETE", &path_of(&room, &known), &token, json!({})).await.ok();
        let (part, _) = sync(&desk, &token, &format!("timeout=0&pos={pos}"), 2).await;
        assert!(part["unsubscribed"][&room][&known]["bump_stamp"].is_u64());
        assert_eq!(part["subscribed"][&room].as_object().unwrap().len(), 1, "the newest");
        let mut found = vec![roots[4].clone()];
        let mut from = part["prev_batch"].as_str().map(str::to_owned);
        while let Some(token_from) = from {
            let path = format!(
                "/unstable/io.element.msc4308/thread_subscriptions?dir=b&limit=2&from={token_from}&to={pos}"
            );
            let page = desk.get(&path, &token).await.ok();
            found.extend(page["subscribed"][&room].as_object().unwrap().keys().cloned());
            from = page["end"].as_str().map(str::to_owned);
        }
        found.sort();
        roots.sort();
        assert_eq!(found, roots, "each once, and nothing from before");
    }

    #[tokio::test]
    async fn strange_pages_are_refused() {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        for query in ["dir=f", "limit=x", "from=t5", "to=yesterday"] {
            let path = format!("/unstable/io.element.msc4308/thread_subscriptions?{query}");
            assert_eq!(desk.get(&path, &token).await.error(), (400, "M_INVALID_PARAM"), "{query}");
        }
    }
}
