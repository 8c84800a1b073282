//! `POST /unstable/org.matrix.simplified_msc3575/sync` and `POST /v4/sync` ([MSC4186]): two
//! spellings of one request. What released clients speak differs from the merged form in names and
//! places; here both become the same.
//!
//! [MSC4186]: https://github.com/matrix-org/matrix-spec-proposals/pull/4186

use std::collections::BTreeMap;
use std::time::Duration;

use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::presence::PresenceState;
use appliance_model::{Caller, Error, Kind, Position};
use appliance_services::sync::sliding::SlidingRequest;
use appliance_services::sync::sliding::request::{
    ExtensionRequests, Form, RoomConfig, RoomFilters, RoomScope, RoomWindow, StatePattern,
    StateWish, ThreadsRequest, ToDeviceRequest,
};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::sync::{number, presence};
use crate::json_body;
use crate::route::{Access, RawRequest, Routes, Visit, json_response, read_body, token};

/// A request that names a thousand rooms is a tenth of this.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// "Max lists: 100."
const LISTS_MAX: usize = 100;
/// Rooms asked for one by one. Clients subscribe to what is on the screen.
const SUBSCRIPTIONS_MAX: usize = 1_000;
/// Ranges of one list; released clients send one.
const RANGES_MAX: usize = 20;
/// State patterns of one list or room; Element X sends 18.
const PATTERNS_MAX: usize = 200;
/// Values of one filter, and rooms or lists named by one extension.
const VALUES_MAX: usize = 1_000;
/// Names of lists and connections, transaction IDs ("opaque identifiers": 255 bytes).
const NAME_BYTES_MAX: usize = 255;
/// "The maximum number of timeline events …. The server may cap this number."
const TIMELINE_MAX: usize = 500;

pub(crate) fn add(routes: &mut Routes) {
    let unstable = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
    routes.serve_raw(Method::POST, unstable, Access::SignedIn, post_unstable);
    routes.serve_raw(Method::POST, "/_matrix/client/v4/sync", Access::SignedIn, post_merged);
}

async fn post_unstable(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let Visit { services, visitor, headers, request, .. } = visit;
    let caller = visitor.ok_or_else(stranger)?;
    let token = token(&headers, &request.uri).unwrap_or_default();
    let (pos, timeout) = (request.query("pos"), request.query("timeout"));
    let present = request.query("set_presence");
    let body: Body<Unstable> = read(request.body).await?;
    let mut asked = body.translated(Form::Unstable, &caller)?;
    asked.pos = pos.filter(|pos| !pos.is_empty());
    asked.timeout = Duration::from_millis(timeout.as_deref().map_or(Ok(0), number)?);
    asked.presence = present.as_deref().map_or(Ok(PresenceState::Online), presence)?;
    let json = services.sync.sliding(&caller, &token, &asked).await?;
    Ok(json_response(StatusCode::OK, json))
}

async fn post_merged(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let Visit { services, visitor, headers, request, .. } = visit;
    let caller = visitor.ok_or_else(stranger)?;
    let token = token(&headers, &request.uri).unwrap_or_default();
    let body: Body<Merged> = read(request.body).await?;
    let (pos, timeout, present) = (body.pos.clone(), body.timeout, body.set_presence.clone());
    let mut asked = body.translated(Form::Merged, &caller)?;
    asked.pos = pos;
    asked.timeout = Duration::from_millis(timeout.unwrap_or_default());
    asked.presence = present.as_deref().map_or(Ok(PresenceState::Online), presence)?;
    let json = services.sync.sliding(&caller, &token, &asked).await?;
    Ok(json_response(StatusCode::OK, json))
}

fn stranger() -> Error {
    Error::new(Kind::MissingToken, "This endpoint needs an access token. Sign in first.")
}

async fn read<T: DeserializeOwned>(body: axum::body::Body) -> Result<T, Error> {
    let body = read_body(body, BODY_BYTES_MAX).await?;
    let body = if body.is_empty() { bytes::Bytes::from_static(b"{}") } else { body };
    json_body::check(&body)?;
    serde_json::from_slice(&body)
        .map_err(|error| Error::bad_json(format!("This is no sync request: {error}")))
}

/// A spelling: how lists and state are asked for.
trait Spelling {
    type Window: DeserializeOwned + Translate<RoomWindow>;
    type Config: DeserializeOwned + Translate<RoomConfig>;
}

trait Translate<T> {
    fn translate(self, caller: &Caller) -> Result<T, Error>;
}

struct Unstable;
struct Merged;

impl Spelling for Unstable {
    type Window = UnstableWindow;
    type Config = UnstableConfig;
}

impl Spelling for Merged {
    type Window = MergedWindow;
    type Config = MergedConfig;
}

#[derive(Deserialize)]
#[serde(bound = "")]
struct Body<S: Spelling> {
    #[serde(default)]
    conn_id: String,
    txn_id: Option<String>,
    pos: Option<String>,
    timeout: Option<u64>,
    set_presence: Option<String>,
    #[serde(default = "BTreeMap::new")]
    lists: BTreeMap<String, S::Window>,
    #[serde(default = "BTreeMap::new")]
    room_subscriptions: BTreeMap<OwnedRoomId, S::Config>,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Deserialize)]
struct UnstableWindow {
    ranges: Option<Vec<(u32, u32)>>,
    filters: Option<Filters>,
    #[serde(flatten)]
    config: UnstableConfig,
}

#[derive(Deserialize)]
struct UnstableConfig {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    #[serde(default)]
    timeline_limit: u32,
}

#[derive(Deserialize)]
struct MergedWindow {
    range: Option<(u32, u32)>,
    filters: Option<Filters>,
    #[serde(flatten)]
    config: MergedConfig,
}

#[derive(Deserialize)]
struct MergedConfig {
    required_state: MergedState,
    timeline_limit: u32,
}

#[derive(Deserialize)]
struct MergedState {
    #[serde(default)]
    include: Vec<Pattern>,
    #[serde(default)]
    exclude: Vec<Pattern>,
    #[serde(default)]
    lazy_members: bool,
}

#[derive(Deserialize)]
struct Pattern {
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
}

/// The names in which the two spellings differ do not collide.
#[derive(Deserialize)]
struct Filters {
    is_dm: Option<bool>,
    is_encrypted: Option<bool>,
    is_invite: Option<bool>,
    is_invited: Option<bool>,
    room_types: Option<Vec<Option<String>>>,
    #[serde(default)]
    not_room_types: Vec<Option<String>>,
    spaces: Option<Vec<OwnedRoomId>>,
    tags: Option<Vec<String>>,
    #[serde(default)]
    not_tags: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Extensions {
    to_device: ToDevice,
    e2ee: Switch,
    account_data: Scoped,
    receipts: Scoped,
    typing: Scoped,
    thread_subscriptions: Threads,
    #[serde(rename = "io.element.msc4308.thread_subscriptions")]
    unstable_thread_subscriptions: Threads,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Threads {
    enabled: Option<bool>,
    limit: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Switch {
    enabled: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToDevice {
    enabled: Option<bool>,
    limit: Option<u32>,
    since: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Scoped {
    enabled: Option<bool>,
    lists: Option<Vec<String>>,
    rooms: Option<Vec<String>>,
}

impl<S: Spelling> Body<S> {
    fn translated(self, form: Form, caller: &Caller) -> Result<SlidingRequest, Error> {
        at_most(self.lists.len(), LISTS_MAX, "lists")?;
        at_most(self.room_subscriptions.len(), SUBSCRIPTIONS_MAX, "subscriptions")?;
        let names = self.lists.keys().chain(&self.txn_id).chain([&self.conn_id]);
        for name in names {
            at_most(name.len(), NAME_BYTES_MAX, "bytes in a name")?;
        }
        let mut lists = BTreeMap::new();
        for (name, window) in self.lists {
            lists.insert(name, window.translate(caller)?);
        }
        let mut subscriptions = BTreeMap::new();
        for (room_id, config) in self.room_subscriptions {
            subscriptions.insert(room_id, config.translate(caller)?);
        }
        Ok(SlidingRequest {
            form,
            pos: None,
            conn_id: self.conn_id,
            txn_id: self.txn_id,
            timeout: Duration::ZERO,
            presence: PresenceState::Online,
            lists,
            subscriptions,
            extensions: self.extensions.translate(caller)?,
        })
    }
}

impl Translate<RoomWindow> for UnstableWindow {
    fn translate(self, caller: &Caller) -> Result<RoomWindow, Error> {
        let ranges = self.ranges.map(ranges).transpose()?;
        let filters = self.filters.map(|filters| filters.translate(caller)).transpose()?;
        let config = self.config.translate(caller)?;
        Ok(RoomWindow { ranges, filters: filters.unwrap_or_default(), config })
    }
}

impl Translate<RoomWindow> for MergedWindow {
    fn translate(self, caller: &Caller) -> Result<RoomWindow, Error> {
        // "If this field is missing, the room list is not limited by range".
        let ranges = self.range.map(|range| ranges(vec![range])).transpose()?;
        let filters = self.filters.map(|filters| filters.translate(caller)).transpose()?;
        let config = self.config.translate(caller)?;
        Ok(RoomWindow { ranges, filters: filters.unwrap_or_default(), config })
    }
}

/// "Integers are inclusive, and are 0-indexed."
fn ranges(ranges: Vec<(u32, u32)>) -> Result<Vec<(usize, usize)>, Error> {
    at_most(ranges.len(), RANGES_MAX, "ranges")?;
    if ranges.iter().any(|(first, last)| first > last) {
        return Err(Error::invalid_param("A range ends before it begins."));
    }
    Ok(ranges.into_iter().map(|(first, last)| (size(first), size(last))).collect())
}

impl Translate<RoomConfig> for UnstableConfig {
    fn translate(self, caller: &Caller) -> Result<RoomConfig, Error> {
        at_most(self.required_state.len(), PATTERNS_MAX, "kinds of state")?;
        let mut state = StateWish::default();
        for (kind, key) in self.required_state {
            if kind == "m.room.member" && key == "$LAZY" {
                state.lazy_members = true;
                continue;
            }
            let key = if key == "$ME" { caller.user_id.to_string() } else { key };
            let some = |text: String| Some(text).filter(|text| text != "*");
            state.include.push(StatePattern { kind: some(kind), key: some(key) });
        }
        Ok(RoomConfig { timeline_limit: size(self.timeline_limit).min(TIMELINE_MAX), state })
    }
}

impl Translate<RoomConfig> for MergedConfig {
    fn translate(self, _: &Caller) -> Result<RoomConfig, Error> {
        let MergedState { include, exclude, lazy_members } = self.required_state;
        at_most(include.len() + exclude.len(), PATTERNS_MAX, "kinds of state")?;
        let pattern = |one: Pattern| StatePattern { kind: one.kind, key: one.state_key };
        let state = StateWish {
            include: include.into_iter().map(pattern).collect(),
            exclude: exclude.into_iter().map(pattern).collect(),
            lazy_members,
        };
        Ok(RoomConfig { timeline_limit: size(self.timeline_limit).min(TIMELINE_MAX), state })
    }
}

impl Translate<RoomFilters> for Filters {
    fn translate(self, _: &Caller) -> Result<RoomFilters, Error> {
        let types = self.room_types.as_ref().map_or(0, Vec::len) + self.not_room_types.len();
        let tags = self.tags.as_ref().map_or(0, Vec::len) + self.not_tags.len();
        let spaces = self.spaces.as_ref().map_or(0, Vec::len);
        at_most(types.max(tags).max(spaces), VALUES_MAX, "values of a filter")?;
        Ok(RoomFilters {
            is_dm: self.is_dm,
            is_encrypted: self.is_encrypted,
            is_invited: self.is_invited.or(self.is_invite),
            room_types: self.room_types,
            not_room_types: self.not_room_types,
            spaces: self.spaces,
            tags: self.tags,
            not_tags: self.not_tags,
        })
    }
}

impl Translate<ExtensionRequests> for Extensions {
    fn translate(self, caller: &Caller) -> Result<ExtensionRequests, Error> {
        let ToDevice { enabled, limit, since } = self.to_device;
        let bad = |_| Error::invalid_param("`since` is not a token that this server gave out.");
        let since = since.map(|since| since.parse().map(Position).map_err(bad)).transpose()?;
        let to_device = ToDeviceRequest { limit: limit.map(size), since };
        let asked = [
            ("io.element.msc4308.thread_subscriptions", self.unstable_thread_subscriptions),
            ("thread_subscriptions", self.thread_subscriptions),
        ];
        let threads = asked.into_iter().find(|(_, threads)| threads.enabled == Some(true));
        let threads =
            threads.map(|(name, asked)| ThreadsRequest { name, limit: asked.limit.map(size) });
        Ok(ExtensionRequests {
            to_device: (enabled == Some(true)).then_some(to_device),
            e2ee: self.e2ee.enabled == Some(true),
            account_data: self.account_data.translate(caller)?,
            receipts: self.receipts.translate(caller)?,
            typing: self.typing.translate(caller)?,
            thread_subscriptions: threads,
        })
    }
}

impl Translate<Option<RoomScope>> for Scoped {
    fn translate(self, _: &Caller) -> Result<Option<RoomScope>, Error> {
        let named = [&self.lists, &self.rooms].map(|names| names.as_ref().map_or(0, Vec::len));
        at_most(named[0].max(named[1]), VALUES_MAX, "names in an extension")?;
        let scope = RoomScope { lists: self.lists, rooms: self.rooms };
        Ok((self.enabled == Some(true)).then_some(scope))
    }
}

fn at_most(count: usize, max: usize, what: &str) -> Result<(), Error> {
    if count > max {
        return Err(Error::invalid_param(format!("More than {max} {what}.")));
    }
    Ok(())
}

fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::Desk;

    const UNSTABLE: &str = "/unstable/org.matrix.simplified_msc3575/sync";

    async fn ward(desk: &Desk) -> (String, String, String) {
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let body = json!({ "name": "Ward 4", "invite": ["@doctor:hospital.example"] });
        let room = desk.post("/v3/createRoom", &nurse, body).await.text("room_id");
        desk.post(&format!("/v3/join/{room}"), &doctor, json!({})).await.ok();
        let invited = desk.post("/v3/createRoom", &nurse, json!({ "name": "Ward 5" })).await;
        let invited = invited.text("room_id");
        let path = format!("/v3/rooms/{invited}/invite");
        desk.post(&path, &nurse, json!({ "user_id": "@doctor:hospital.example" })).await.ok();
        (doctor, room, invited)
    }

    /// What Element X sends, and what its parser needs.
    #[tokio::test]
    async fn released_clients_are_understood() {
        let desk = Desk::new().await;
        let (doctor, room, invited) = ward(&desk).await;
        let mut body = json!({
            "conn_id": "room-list",
            "txn_id": "t1",
            "lists": { "all_rooms": {
                "ranges": [[0, 19]],
                "timeline_limit": 1,
                "required_state": [["m.room.name", ""], ["m.room.member", "$LAZY"],
                    ["m.room.member", "$ME"], ["m.space.child", "*"]],
                "filters": { "not_room_types": ["m.space"] },
            } },
            "room_subscriptions": {},
            "extensions": {
                "account_data": { "enabled": true },
                "receipts": { "enabled": true, "rooms": ["*"] },
                "typing": { "enabled": true },
                "e2ee": { "enabled": true },
                "to_device": { "enabled": true, "since": null },
            },
        });
        let path = format!("{UNSTABLE}?timeout=0&set_presence=online");
        let first = desk.post(&path, &doctor, body.clone()).await.ok();
        assert_eq!(
            (&first["txn_id"], &first["lists"]["all_rooms"]["count"]),
            (&json!("t1"), &json!(2))
        );
        let part = &first["rooms"][&room];
        assert_eq!((&part["name"], &part["initial"]), (&json!("Ward 4"), &json!(true)));
        assert_eq!(part["timeline"][0]["sender"], "@doctor:hospital.example");
        assert!(part["timeline"][0].get("room_id").is_none());
        assert_eq!((part.get("membership"), part.get("lists")), (None, None));
        assert!(first["rooms"][&invited]["invite_state"].is_array());
        assert!(first["extensions"]["to_device"]["next_batch"].is_string());

        let pos = first["pos"].as_str().unwrap();
        let again = format!("{UNSTABLE}?timeout=0&pos={pos}");
        let second = desk.post(&again, &doctor, body.clone()).await.ok();
        assert_eq!(second.get("rooms"), None);
        let page = format!("/v3/rooms/{room}/messages?dir=b&limit=1&from={pos}");
        let page = desk.get(&page, &doctor).await.ok();
        assert_eq!(page["chunk"][0]["event_id"], part["timeline"][0]["event_id"]);

        body["lists"]["all_rooms"]["filters"] = json!({ "is_invite": true });
        let path = format!("{UNSTABLE}?timeout=0");
        let only = desk.post(&path, &doctor, body).await.ok();
        assert_eq!(only["lists"]["all_rooms"]["count"], 1);
        let features = desk.get("/versions", "").await.ok()["unstable_features"].clone();
        assert_eq!(features["org.matrix.simplified_msc3575"], true, "a boolean");
    }

    #[tokio::test]
    async fn the_merged_form_is_the_same_in_other_words() {
        let desk = Desk::new().await;
        let (doctor, room, invited) = ward(&desk).await;
        let list = json!({
            "range": [0, 19],
            "timeline_limit": 10,
            "required_state": {
                "include": [{}], "exclude": [{ "type": "m.room.create" }], "lazy_members": true,
            },
            "filters": { "is_invited": false },
        });
        let unlimited = json!({ "timeline_limit": 0, "required_state": {} });
        let mut body = json!({ "conn_id": "main", "lists": { "mine": list, "every": unlimited }, "timeout": 0 });
        let first = desk.post("/v4/sync", &doctor, body.clone()).await.ok();
        assert_eq!(
            (&first["lists"]["mine"]["count"], &first["lists"]["every"]["count"]),
            (&json!(1), &json!(2))
        );
        let part = &first["rooms"][&room];
        assert_eq!(
            (&part["membership"], &part["lists"]),
            (&json!("join"), &json!(["every", "mine"]))
        );
        assert_eq!(part["timeline_events"].as_array().unwrap().len(), 9);
        let state = part["required_state"].as_array().unwrap();
        assert!(state.iter().all(|event| event["type"] != "m.room.create"));
        let part = &first["rooms"][&invited];
        assert_eq!((&part["membership"], &part["lists"]), (&json!("invite"), &json!(["every"])));
        assert!(part["stripped_state"].is_array() && part.get("invite_state").is_none());
        body["pos"] = first["pos"].clone();
        let second = desk.post("/v4/sync", &doctor, body.clone()).await.ok();
        assert_eq!(second.get("rooms"), None);
        body["lists"]["mine"]["timeline_limit"] = json!(500);
        let wider = desk.post("/v4/sync", &doctor, body).await.ok();
        assert_eq!(wider.get("rooms"), None, "all of it is known");
    }

    #[tokio::test]
    async fn nonsense_is_named() {
        let desk = Desk::new().await;
        let token = desk.sign_up("nurse").await;
        let list = |list: Value| json!({ "lists": { "a": list } });
        let many = |count: usize, value: Value| -> Value {
            (0..count).map(|number| (number.to_string(), value.clone())).collect()
        };
        let cases = [
            (list(json!({ "ranges": [[5, 1]] })), "M_INVALID_PARAM"),
            (list(json!({ "ranges": [[-1, 1]] })), "M_BAD_JSON"),
            (list(json!({ "ranges": vec![[0, 1]; 21] })), "M_INVALID_PARAM"),
            (list(json!({ "required_state": vec![["a", "b"]; 201] })), "M_INVALID_PARAM"),
            (list(json!({ "filters": { "tags": vec!["a"; 1_001] } })), "M_INVALID_PARAM"),
            (list(json!({ "timeline_limit": "x" })), "M_BAD_JSON"),
            (json!({ "lists": many(101, json!({})) }), "M_INVALID_PARAM"),
            (json!({ "conn_id": "x".repeat(256) }), "M_INVALID_PARAM"),
            (json!({ "room_subscriptions": { "no room": {} } }), "M_BAD_JSON"),
            (
                json!({ "extensions": { "to_device": { "enabled": true, "since": "x" } } }),
                "M_INVALID_PARAM",
            ),
        ];
        for (body, errcode) in cases {
            let answer = desk.post(UNSTABLE, &token, body.clone()).await;
            assert_eq!(answer.error(), (400, errcode), "{body:.200}");
        }
        for query in ["timeout=x", "set_presence=asleep"] {
            let answer = desk.post(&format!("{UNSTABLE}?{query}"), &token, json!({})).await;
            assert_eq!(answer.error(), (400, "M_INVALID_PARAM"), "{query}");
        }
        let answer = desk.post(&format!("{UNSTABLE}?pos=0"), &token, json!({})).await;
        assert_eq!(answer.error(), (400, "M_UNKNOWN_POS"));
        let body = json!({ "pos": "p1_1_1", "set_presence": "offline" });
        assert_eq!(desk.post("/v4/sync", &token, body).await.error(), (400, "M_UNKNOWN_POS"));
        let large = format!("{{\"x\":\"{}\"}}", "x".repeat(1024 * 1024));
        let path = format!("/_matrix/client{UNSTABLE}");
        assert_eq!(desk.call_raw("POST", &path, &token, large).await.status, 413);
        assert!(desk.post(UNSTABLE, &token, json!({})).await.ok()["pos"].is_string());
    }
}
