//! Events that relate to others, and threads. The answers are written from the stored events.

use appliance_model::Error;
use appliance_model::ruma::api::Direction as RumaDirection;
use appliance_model::ruma::api::client::relations::{
    get_relating_events, get_relating_events_with_rel_type,
    get_relating_events_with_rel_type_and_event_type,
};
use appliance_model::ruma::api::client::threads::get_threads;
use appliance_model::ruma::{EventId, RoomId, UInt};
use appliance_services::Direction;
use appliance_services::rooms::{RelationsQuery, ThreadsQuery};
use appliance_services::sync::token::{timeline_place, timeline_token};

use crate::route::{Routes, Visit};

/// What a client gets that names no limit: a screenful.
const LIMIT_DEFAULT: usize = 20;

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_json(all);
    routes.serve_json(of_type);
    routes.serve_json(of_type_and_event_type);
    routes.serve_json(threads);
}

async fn all(visit: Visit<get_relating_events::v1::Request>) -> Result<String, Error> {
    let asked = &visit.request;
    let query = RelationsQuery {
        rel_type: None,
        kind: None,
        ..paged(Paging {
            from: asked.from.as_deref(),
            to: asked.to.as_deref(),
            limit: asked.limit,
            direction: asked.dir,
            recurse: asked.recurse,
        })?
    };
    page(&visit, (&asked.room_id, &asked.event_id), &query, asked.from.as_deref()).await
}

async fn of_type(
    visit: Visit<get_relating_events_with_rel_type::v1::Request>,
) -> Result<String, Error> {
    let asked = &visit.request;
    let rel_type = asked.rel_type.to_string();
    let query = RelationsQuery {
        rel_type: Some(&rel_type),
        kind: None,
        ..paged(Paging {
            from: asked.from.as_deref(),
            to: asked.to.as_deref(),
            limit: asked.limit,
            direction: asked.dir,
            recurse: asked.recurse,
        })?
    };
    page(&visit, (&asked.room_id, &asked.event_id), &query, asked.from.as_deref()).await
}

async fn of_type_and_event_type(
    visit: Visit<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<String, Error> {
    let asked = &visit.request;
    let (rel_type, kind) = (asked.rel_type.to_string(), asked.event_type.to_string());
    let query = RelationsQuery {
        rel_type: Some(&rel_type),
        kind: Some(&kind),
        ..paged(Paging {
            from: asked.from.as_deref(),
            to: asked.to.as_deref(),
            limit: asked.limit,
            direction: asked.dir,
            recurse: asked.recurse,
        })?
    };
    page(&visit, (&asked.room_id, &asked.event_id), &query, asked.from.as_deref()).await
}

/// What the three forms have in common.
struct Paging<'a> {
    from: Option<&'a str>,
    to: Option<&'a str>,
    limit: Option<UInt>,
    direction: RumaDirection,
    recurse: bool,
}

fn paged<'a>(asked: Paging<'_>) -> Result<RelationsQuery<'a>, Error> {
    Ok(RelationsQuery {
        rel_type: None,
        kind: None,
        direction: match asked.direction {
            RumaDirection::Backward => Direction::Backward,
            RumaDirection::Forward => Direction::Forward,
        },
        limit: limit(asked.limit),
        from: asked.from.map(timeline_place).transpose()?,
        to: asked.to.map(timeline_place).transpose()?,
        recurse: asked.recurse,
    })
}

fn limit(asked: Option<UInt>) -> usize {
    asked.map_or(LIMIT_DEFAULT, |limit| usize::try_from(u64::from(limit)).unwrap_or(usize::MAX))
}

async fn page<R>(
    visit: &Visit<R>,
    (room_id, event_id): (&RoomId, &EventId),
    query: &RelationsQuery<'_>,
    from: Option<&str>,
) -> Result<String, Error> {
    let caller = visit.caller()?;
    let found = visit.services.rooms.relations(caller, (room_id, event_id), query).await?;
    let mut body = format!(r#"{{"chunk":{}"#, found.chunk.to_json(Some(room_id.as_str())));
    if let Some(next) = found.next {
        body.push_str(&format!(r#","next_batch":"{}""#, timeline_token(next)));
    }
    // "prev_batch: … absent if there are no more results before this" page.
    if from.is_some()
        && let Some(at) = query.from
    {
        body.push_str(&format!(r#","prev_batch":"{}""#, timeline_token(at)));
    }
    if let Some(depth) = found.depth {
        body.push_str(&format!(r#","recursion_depth":{depth}"#));
    }
    body.push('}');
    Ok(body)
}

async fn threads(visit: Visit<get_threads::v1::Request>) -> Result<String, Error> {
    use get_threads::v1::IncludeThreads;
    let (caller, asked) = (visit.caller()?, &visit.request);
    let query = ThreadsQuery {
        participated: match asked.include {
            IncludeThreads::All => false,
            IncludeThreads::Participated => true,
            _ => return Err(Error::invalid_param("`include` is `all` or `participated`.")),
        },
        limit: limit(asked.limit),
        from: asked.from.as_deref().map(timeline_place).transpose()?,
    };
    let found = visit.services.rooms.threads(caller, &asked.room_id, query).await?;
    let mut body = format!(r#"{{"chunk":{}"#, found.chunk.to_json(Some(asked.room_id.as_str())));
    if let Some(next) = found.next {
        body.push_str(&format!(r#","next_batch":"{}""#, timeline_token(next)));
    }
    body.push('}');
    Ok(body)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    #[tokio::test]
    async fn relations_threads_and_bundles_on_every_path() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let room = desk.post("/v3/createRoom", &nurse, json!({})).await.text("room_id");
        let send = async |txn_id: &str, kind: &str, content: Value| {
            let path = format!("/v3/rooms/{room}/send/{kind}/{txn_id}");
            desk.call("PUT", &path, &nurse, content).await
        };
        let text = |body: &str| json!({ "body": body, "msgtype": "m.text" });
        let related = |rel_type: &str, parent: &str| {
            json!({
                "body": "x", "msgtype": "m.text", "m.new_content": { "body": "x" },
                "m.relates_to": { "rel_type": rel_type, "event_id": parent, "key": "👍" },
            })
        };
        let root = send("1", "m.room.message", text("root")).await.text("event_id");
        let reply = send("2", "m.room.message", related("m.thread", &root)).await.text("event_id");
        let edit = send("3", "m.room.message", related("m.replace", &root)).await.text("event_id");
        send("4", "m.reaction", related("m.annotation", &root)).await.ok();
        let again = send("5", "m.reaction", related("m.annotation", &root)).await;
        assert_eq!(again.error(), (400, "M_DUPLICATE_ANNOTATION"));
        let nested = send("6", "m.room.message", related("m.thread", &reply)).await;
        assert_eq!(nested.error(), (400, "M_UNKNOWN"));

        let at = |tail: &str| format!("/v1/rooms/{room}/relations/{root}{tail}");
        for (tail, count) in [
            ("", 3),
            ("?limit=2", 2),
            ("?dir=f&recurse=true", 3),
            ("/m.thread", 1),
            ("/m.annotation/m.reaction", 1),
            ("/m.annotation/m.room.message", 0),
        ] {
            let page = desk.get(&at(tail), &nurse).await.ok();
            assert_eq!(page["chunk"].as_array().map(Vec::len), Some(count), "{tail}: {page}");
            assert_eq!(page["recursion_depth"].is_u64(), tail.contains("recurse"), "{tail}");
            assert_eq!(page["next_batch"].is_string(), tail.contains("limit"), "{tail}");
        }
        assert_eq!(desk.get(&at("?from=x"), &nurse).await.status, 400);

        let has_bundle = |event: &Value| {
            assert_eq!(event["event_id"], *root);
            let bundle = &event["unsigned"]["m.relations"];
            assert_eq!(bundle["m.replace"]["event_id"], *edit, "{event}");
            assert_eq!(bundle["m.thread"]["latest_event"]["event_id"], *reply, "{event}");
            assert_eq!(bundle["m.thread"]["count"], 1);
            assert_eq!(bundle["m.thread"]["current_user_participated"], true);
        };
        let threads = desk.get(&format!("/v1/rooms/{room}/threads"), &nurse).await.ok();
        has_bundle(&threads["chunk"][0]);
        let path = format!("/v1/rooms/{room}/threads?include=everything");
        assert_eq!(desk.get(&path, &nurse).await.error(), (400, "M_INVALID_PARAM"));
        has_bundle(&desk.get(&format!("/v3/rooms/{room}/event/{root}"), &nurse).await.ok());
        let around = desk.get(&format!("/v3/rooms/{room}/context/{root}"), &nurse).await.ok();
        has_bundle(&around["event"]);
        let find = |list: &Value| -> Value {
            let events = list.as_array().unwrap().iter();
            events.clone().find(|event| event["event_id"] == *root).unwrap().clone()
        };
        let page = desk.get(&format!("/v3/rooms/{room}/messages?dir=b"), &nurse).await.ok();
        has_bundle(&find(&page["chunk"]));
        let sync = desk.get("/v3/sync", &nurse).await.ok();
        has_bundle(&find(&sync["rooms"]["join"][&room]["timeline"]["events"]));
    }
}
