//! `POST /search`. The results are written from the stored events.

use std::collections::BTreeMap;

use appliance_model::Error;
use appliance_model::ruma::api::client::filter::RoomEventFilter;
use appliance_services::rooms::ClientEvents;
use appliance_services::search::{Found, FoundEvent, SearchOrder, SearchRequest, Surroundings};
use appliance_services::sync::token::timeline_token;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::json::read_json;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    for path in ["/_matrix/client/r0/search", "/_matrix/client/v3/search"] {
        routes.serve_raw(Method::POST, path, Access::SignedIn, search);
    }
}

#[derive(Deserialize)]
struct Asked {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<String>>,
    #[serde(default)]
    filter: Option<RoomEventFilter>,
    order_by: Option<OrderBy>,
    event_context: Option<Around>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OrderBy {
    Recent,
    Rank,
}

/// "By default, this is `5`."
#[derive(Deserialize)]
struct Around {
    before_limit: Option<usize>,
    after_limit: Option<usize>,
    #[serde(default)]
    include_profile: bool,
}

#[derive(Default, Deserialize)]
struct Groupings {
    #[serde(default)]
    group_by: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    key: GroupKey,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GroupKey {
    RoomId,
    Sender,
}

async fn search(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let asked: Asked = read_json(&mut visit.request).await?;
    let Some(criteria) = asked.search_categories.room_events else {
        let nothing = json!({ "search_categories": {} });
        return Ok(json_response(StatusCode::OK, nothing.to_string()));
    };
    let with_context = criteria.event_context.is_some();
    let groups: Vec<_> = criteria.groupings.group_by.iter().map(|group| group.key).collect();
    let with_state = criteria.include_state;
    let request = SearchRequest {
        term: criteria.search_term,
        keys: criteria.keys,
        filter: criteria.filter.unwrap_or_default(),
        order: match criteria.order_by {
            Some(OrderBy::Recent) => SearchOrder::Recent,
            Some(OrderBy::Rank) | None => SearchOrder::Rank,
        },
        around: criteria.event_context.map(|around| Surroundings {
            before: around.before_limit.unwrap_or(5),
            after: around.after_limit.unwrap_or(5),
            profiles: around.include_profile,
        }),
        state: with_state,
        from: visit.request.query("next_batch").filter(|token| !token.is_empty()),
    };
    let profiles = request.around.is_some_and(|around| around.profiles);
    let found = visit.services.search.find(visit.caller()?, &request).await?;
    let body = written(&found, &groups, with_context.then_some(profiles), with_state)?;
    Ok(json_response(StatusCode::OK, body))
}

/// The answer. `around` says whether to show what is around a result, and with profiles.
fn written(
    found: &Found,
    groups: &[GroupKey],
    around: Option<bool>,
    with_state: bool,
) -> Result<String, Error> {
    let mut fields = BTreeMap::from([
        ("count", found.count.to_string()),
        ("highlights", json!(found.words).to_string()),
    ]);
    let results: Vec<_> = found.results.iter().map(|one| result(one, around)).collect();
    fields.insert("results", format!("[{}]", results.join(",")));
    if let Some(next) = &found.next {
        fields.insert("next_batch", json!(next).to_string());
    }
    if !groups.is_empty() {
        fields.insert("groups", groups_of(found, groups).to_string());
    }
    if with_state {
        let states = found
            .state
            .iter()
            .map(|(room_id, state)| format!("{}:{state}", Value::from(room_id.as_str())));
        fields.insert("state", format!("{{{}}}", states.collect::<Vec<_>>().join(",")));
    }
    let raw = |json: String| RawValue::from_string(json).map_err(Error::internal);
    let fields = fields.into_iter().map(|(name, json)| Ok((name, raw(json)?)));
    let fields: BTreeMap<_, _> = fields.collect::<Result<_, Error>>()?;
    let body = BTreeMap::from([("search_categories", BTreeMap::from([("room_events", fields)]))]);
    serde_json::to_string(&body).map_err(Error::internal)
}

fn result(one: &FoundEvent, around: Option<bool>) -> String {
    let (room_id, context) = (Some(one.room_id.as_str()), &one.context);
    let mut json = String::from("{");
    if let Some(rank) = one.rank {
        json.push_str(&format!(r#""rank":{},"#, Value::from(f64::from(rank))));
    }
    json.push_str("\"result\":");
    context.event.write(&mut json, 0, room_id);
    if let Some(profiles) = around {
        json.push_str(&format!(
            r#","context":{{"end":"{}","events_after":{},"events_before":{},"start":"{}""#,
            timeline_token(context.end),
            context.after.to_json(room_id),
            context.before.to_json(room_id),
            timeline_token(context.start),
        ));
        if profiles {
            json.push_str(&format!(r#","profile_info":{}"#, profiles_of(&context.state)));
        }
        json.push('}');
    }
    json.push('}');
    json
}

/// "The historic profile information of the users that sent the events returned."
fn profiles_of(members: &ClientEvents) -> Value {
    #[derive(Deserialize)]
    struct Member {
        state_key: String,
        content: Profile,
    }
    #[derive(Deserialize)]
    struct Profile {
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    // What a remote server put into a member event may be no text at all: then it is left out.
    let members: Vec<Value> = serde_json::from_str(&members.to_json(None)).unwrap_or_default();
    let read = |member| serde_json::from_value::<Member>(member).ok();
    let profile = |Member { state_key, content }: Member| {
        let mut profile = Map::new();
        profile.extend(content.displayname.map(|name| ("displayname".to_owned(), name.into())));
        profile.extend(content.avatar_url.map(|url| ("avatar_url".to_owned(), url.into())));
        (state_key, Value::Object(profile))
    };
    Value::Object(members.into_iter().filter_map(read).map(profile).collect())
}

/// The results of this page by room or by sender, in their order.
fn groups_of(found: &Found, keys: &[GroupKey]) -> Value {
    let mut groups = Map::new();
    for key in keys {
        let mut parts: Vec<(String, Vec<&str>)> = Vec::new();
        for one in &found.results {
            let sender = one.event.part(one.event.spans.sender).trim_matches('"');
            let (event_id, name) = match key {
                GroupKey::RoomId => (one.event.event_id.as_str(), one.room_id.as_str()),
                GroupKey::Sender => (one.event.event_id.as_str(), sender),
            };
            match parts.iter_mut().find(|(known, _)| known == name) {
                Some((_, ids)) => ids.push(event_id),
                None => parts.push((name.to_owned(), vec![event_id])),
            }
        }
        let part = |(order, (name, ids)): (usize, (String, Vec<&str>))| {
            (name, json!({ "order": order, "results": ids }))
        };
        let name = match key {
            GroupKey::RoomId => "room_id",
            GroupKey::Sender => "sender",
        };
        let parts: Map<_, _> = parts.into_iter().enumerate().map(part).collect();
        groups.insert(name.to_owned(), Value::Object(parts));
    }
    Value::Object(groups)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    #[tokio::test]
    async fn a_search_with_everything() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let room = desk.post("/v3/createRoom", &nurse, json!({})).await.text("room_id");
        let mut said = Vec::new();
        for number in 0..4 {
            let path = format!("/v3/rooms/{room}/send/m.room.message/{number}");
            let text = json!({ "body": format!("Bed {number} is free"), "msgtype": "m.text" });
            said.push(desk.call("PUT", &path, &nurse, text).await.text("event_id"));
        }
        let asked = |more: Value| {
            let mut criteria = json!({ "search_term": "bed" });
            criteria.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({ "search_categories": { "room_events": criteria } })
        };
        let all = asked(json!({
            "keys": ["content.body"], "order_by": "recent", "filter": { "limit": 3 },
            "event_context": { "before_limit": 1, "after_limit": 1, "include_profile": true },
            "include_state": true,
            "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
        }));
        let answer = desk.post("/v3/search", &nurse, all.clone()).await.ok();
        let found = &answer["search_categories"]["room_events"];
        assert_eq!((&found["count"], &found["highlights"]), (&json!(4), &json!(["bed"])));
        let newest: Vec<_> = said.iter().rev().take(3).cloned().collect();
        let ids = |found: &Value| -> Vec<String> {
            let results = found["results"].as_array().unwrap().iter();
            results.map(|one| one["result"]["event_id"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids(found), newest);
        let first = &found["results"][1];
        assert_eq!(first["result"]["room_id"], room.as_str());
        let context = &first["context"];
        assert_eq!(context["events_before"][0]["event_id"], *said[1]);
        assert_eq!(context["events_after"][0]["event_id"], *said[3]);
        let own = "@nurse:hospital.example";
        assert_eq!(context["profile_info"][own]["displayname"], "nurse");
        assert!(context["start"].is_string() && context["end"].is_string());
        assert!(found["state"][&room].as_array().is_some_and(|state| state.len() > 5));
        let group = json!({ "order": 0, "results": newest });
        let groups = json!({ "room_id": { &room: group }, "sender": { own: group } });
        assert_eq!(found["groups"], groups);
        let next = found["next_batch"].as_str().unwrap();
        let rest = desk.post(&format!("/v3/search?next_batch={next}"), &nurse, all).await.ok();
        let rest = &rest["search_categories"]["room_events"];
        assert_eq!((ids(rest), &rest["next_batch"]), (vec![said[0].clone()], &Value::Null));

        let ranked = desk.post("/r0/search", &nurse, asked(json!({}))).await.ok();
        let first = &ranked["search_categories"]["room_events"]["results"][0];
        assert!(first["rank"].as_f64().is_some_and(|rank| rank > 0.0), "{first}");
        assert_eq!(first["context"], Value::Null, "nobody asked");
        for odd in [json!({ "order_by": "mood" }), json!({ "search_term": 7 })] {
            let odd = desk.post("/v3/search", &nurse, asked(odd)).await;
            assert_eq!(odd.error(), (400, "M_BAD_JSON"));
        }
        let odd = desk.post("/v3/search", &nurse, asked(json!({ "keys": ["content.url"] }))).await;
        assert_eq!(odd.error(), (400, "M_INVALID_PARAM"));
        let nothing = desk.post("/v3/search", &nurse, json!({ "search_categories": {} })).await;
        assert_eq!(nothing.ok(), json!({ "search_categories": {} }));
    }
}
