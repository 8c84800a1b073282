//! The nonsense itself.

use appliance_acceptance::endpoints::{Access, BodyKind, Endpoint, Field, Place, set, unset};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::verdict::{BAD_JSON, BAD_NAME, BAD_TYPE, Demand, NOT_JSON};

/// How deep the deepest body is nested.
const DEPTH: usize = 10_000;

/// One request and what it must meet.
pub struct Case {
    /// What is wrong with it.
    pub what: String,
    /// The bytes.
    pub request: Request<Full<Bytes>>,
    /// What is due.
    pub demand: Demand,
}

/// Everything that can be asked of one endpoint on one stage.
pub fn of(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let mut cases = strangers(endpoint, stage);
    cases.extend(bad_path(endpoint, stage));
    cases.extend(bad_query(endpoint, stage));
    if endpoint.body == BodyKind::Json {
        cases.extend(bad_bodies(endpoint, stage));
        cases.extend(bad_fields(endpoint, stage));
    }
    if holds_event(endpoint) {
        cases.extend(bad_events(endpoint, stage));
    }
    if endpoint.access == Access::Machine {
        // Without a server's or an application service's credential the door is as far as one gets.
        cases.iter_mut().for_each(|case| case.demand = Demand::NoFault);
    }
    cases
}

/// Whether the body is an event's content, which must be canonical JSON.
fn holds_event(endpoint: &Endpoint) -> bool {
    let path = &endpoint.path;
    endpoint.method == Method::PUT && (path.contains("/send/{") || path.contains("/state/{"))
}

/// Whether the whole body is kept as it came.
fn keeps_body(endpoint: &Endpoint) -> bool {
    holds_event(endpoint)
        || endpoint.method == Method::PUT && endpoint.path.contains("/account_data/")
}

fn case(what: impl Into<String>, request: Request<Full<Bytes>>, demand: Demand) -> Case {
    Case { what: what.into(), request, demand }
}

fn request(
    method: &Method,
    path: &str,
    token: Option<&[u8]>,
    body: Vec<u8>,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, [b"Bearer ", token].concat());
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(body.into())).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

fn with_body(endpoint: &Endpoint, stage: &Stage, body: Vec<u8>) -> Request<Full<Bytes>> {
    let token = stage.session.token.as_bytes();
    request(&endpoint.method, &stage.path(endpoint), Some(token), body)
}

/// The body of a request that is wrong elsewhere.
fn fine_body(endpoint: &Endpoint, stage: &Stage) -> Vec<u8> {
    match endpoint.body {
        BodyKind::None => Vec::new(),
        BodyKind::Json => stage.body(endpoint).to_string().into_bytes(),
        BodyKind::Bytes => b"some bytes".to_vec(),
    }
}

/// No token, and tokens of nobody.
fn strangers(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let (path, body) = (stage.path(endpoint), fine_body(endpoint, stage));
    let (missing, unknown) = match endpoint.access {
        // A room may be looked at from outside by those who are not signed in.
        Access::User if !endpoint.path.contains("/room_summary/") => {
            (Demand::Exactly(401, "M_MISSING_TOKEN"), Demand::Exactly(401, "M_UNKNOWN_TOKEN"))
        }
        _ => (Demand::NoFault, Demand::NoFault),
    };
    let send = |token: Option<&[u8]>| request(&endpoint.method, &path, token, body.clone());
    let long = vec![b'a'; 8_000];
    let mut cases = vec![
        case("no token", send(None), missing.clone()),
        case("an unknown token", send(Some(b"nobodys")), unknown.clone()),
        case("a token of 8,000 bytes", send(Some(&long)), unknown),
        case("a token that is no text", send(Some(b"\xff\xfe\xfd")), Demand::NoFault),
        case("an empty token", send(Some(b"")), Demand::NoFault),
    ];
    let mut other_scheme = send(None);
    other_scheme
        .headers_mut()
        .insert(AUTHORIZATION, "Basic bnVyc2U6cGFzcw==".parse().expect("text"));
    cases.push(case("another scheme", other_scheme, missing));
    cases
}

/// Names that are none.
fn bad_path(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let long = "a".repeat(10_000);
    let wrong = [
        ("a NUL", "%00"),
        ("bytes that are no UTF-8", "%FF%FE"),
        ("half a percent sign", "%2"),
        ("parent folders", "..%2F..%2Fetc%2Fpasswd"),
        ("a pile of dirt", "%F0%9F%92%A9"),
        ("10,000 letters", long.as_str()),
        ("a lone sigil", "!"),
        ("another sigil", "@:"),
        ("spaces and quotes", "%20%22%27%3Cb%3E"),
        ("a negative number", "-1"),
        ("a huge number", "99999999999999999999999999"),
    ];
    let token = Some(stage.session.token.as_bytes());
    let body = fine_body(endpoint, stage);
    let mut cases = Vec::new();
    for field in endpoint.fields_in(Place::Path) {
        // Only these have a grammar; the others are somebody's free choice.
        let demand = match field.name.as_str() {
            // Without a marker in the body, this one asks for nothing.
            "roomId" if endpoint.path.ends_with("/read_markers") => Demand::NoFault,
            "roomId" | "userId" | "roomIdOrAlias" | "roomAlias" | "eventId" => BAD_NAME,
            _ => Demand::NoFault,
        };
        for (what, value) in wrong {
            let path = stage.path_with(endpoint, &field.name, value);
            // hyper sends no path that is not one; `raw.rs` does.
            let Ok(uri) = path.parse::<http::Uri>() else { continue };
            let request = request(&endpoint.method, &uri.to_string(), token, body.clone());
            cases.push(case(format!("{what} as {}", field.name), request, demand.clone()));
        }
    }
    cases
}

/// Query parameters of another type, and hostile ones.
fn bad_query(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let long = "a".repeat(10_000);
    let token = Some(stage.session.token.as_bytes());
    let (path, body) = (stage.path(endpoint), fine_body(endpoint, stage));
    let mut cases = Vec::new();
    for field in endpoint.fields_in(Place::Query) {
        let values =
            ["abc", "-1", "1.5", "99999999999999999999999", "%FF", "%00", "[]", "%7B%22a", &long];
        for value in values {
            if field.name == "timeout" && value.len() > 20 {
                // A server that takes it for a long time waits, rightly.
                continue;
            }
            let path = format!("{path}?{}={value}", field.name);
            let number = value.parse::<u64>().is_ok();
            let demand = match field.kind.as_str() {
                "integer" if field.name == "limit" && !number => {
                    Demand::Refusal(&["M_INVALID_PARAM", "M_BAD_JSON", "M_MISSING_PARAM"])
                }
                _ => Demand::NoFault,
            };
            let start: String = value.chars().take(30).collect();
            let request = request(&endpoint.method, &path, token, body.clone());
            cases.push(case(format!("{start} as {}", field.name), request, demand));
        }
    }
    let many: String = (0..2_000).map(|n| format!("&p{n}=1")).collect();
    let many = format!("{path}?{}", &many[1..]);
    let many = request(&endpoint.method, &many, token, body.clone());
    cases.push(case("2,000 unknown parameters", many, Demand::NoFault));
    cases
}

/// Bodies that are no JSON object.
fn bad_bodies(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let nested = |open: &str, close: &str| {
        format!("{{\"a\":{}1{}}}", open.repeat(DEPTH), close.repeat(DEPTH)).into_bytes()
    };
    // What is kept and handed on would fell a client; what is skipped harms nobody.
    let deep = if keeps_body(endpoint) { BAD_JSON } else { Demand::NoFault };
    let mut unknown = stage.body(endpoint);
    set(&mut unknown, "/io.example.unknown", json!({ "more": [1, "two", null] }));
    let bodies: Vec<(&str, Vec<u8>, Demand)> = vec![
        ("half an object", b"{\"a\":".to_vec(), NOT_JSON),
        ("words", b"drop table users".to_vec(), NOT_JSON),
        ("two objects", b"{}{}".to_vec(), NOT_JSON),
        ("bytes that are no UTF-8", b"{\"a\":\"\xff\xfe\"}".to_vec(), NOT_JSON),
        ("half a surrogate", br#"{"a":"\ud800"}"#.to_vec(), Demand::NoFault),
        ("an array", b"[]".to_vec(), BAD_JSON),
        ("a string", b"\"a\"".to_vec(), BAD_JSON),
        ("a number", b"5".to_vec(), BAD_JSON),
        ("10,000 arrays in each other", nested("[", "]"), deep.clone()),
        ("10,000 objects in each other", nested("{\"a\":", "}"), deep),
        ("10,000 brackets", b"[".repeat(DEPTH), BAD_JSON),
        ("a NUL in a name", br#"{"\u0000":1}"#.to_vec(), Demand::NoFault),
        ("the same name twice", br#"{"a":1,"a":2}"#.to_vec(), Demand::NoFault),
        ("a byte order mark", b"\xef\xbb\xbf{}".to_vec(), Demand::NoFault),
        ("unknown fields", unknown.to_string().into_bytes(), Demand::NoFault),
    ];
    let mut cases: Vec<Case> = bodies
        .into_iter()
        .map(|(what, body, demand)| case(what, with_body(endpoint, stage, body), demand))
        .collect();
    let mut odd = with_body(endpoint, stage, b"{}".to_vec());
    odd.headers_mut()
        .insert(CONTENT_TYPE, "multipart/form-data; boundary=x".parse().expect("text"));
    cases.push(case("another content type", odd, Demand::NoFault));
    cases
}

/// Every declared field: away, and of every other type.
fn bad_fields(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let long = "x".repeat(70_000);
    let hostile = [
        json!(null),
        json!(true),
        json!(7),
        json!(-1),
        json!(1.5),
        json!("text"),
        json!(""),
        json!("\u{0}\u{202e}"),
        json!(long),
        json!([]),
        json!([[]]),
        json!({}),
        json!({ "a": { "b": 1 } }),
    ];
    let huge = ["1e400", "-9223372036854775809", "100000000000000000000000000000", "0.1e-400"];
    let fine = stage.body(endpoint);
    let mut cases = Vec::new();
    for field in endpoint.fields_in(Place::Body) {
        let mut without = fine.clone();
        unset(&mut without, &field.name);
        if field.required && !is_inside_optional(endpoint, field) {
            let request = with_body(endpoint, stage, without.to_string().into_bytes());
            cases.push(case(format!("without {}", field.name), request, due_for(field)));
        }
        for value in &hostile {
            let mut body = with_parents(&fine, &field.name);
            set(&mut body, &field.name, value.clone());
            // "kind: … If set to null, the pusher is deleted."
            let deletes = value.is_null() && endpoint.path.ends_with("/pushers/set");
            let demand =
                if is_wrong(field, value) && !deletes { due_for(field) } else { Demand::NoFault };
            let start: String = value.to_string().chars().take(30).collect();
            let request = with_body(endpoint, stage, body.to_string().into_bytes());
            cases.push(case(format!("{start} as {}", field.name), request, demand));
        }
        for number in huge {
            let mut body = with_parents(&fine, &field.name);
            set(&mut body, &field.name, json!("a number goes here"));
            let body = body.to_string().replace("\"a number goes here\"", number);
            let request = with_body(endpoint, stage, body.into_bytes());
            cases.push(case(format!("{number} as {}", field.name), request, Demand::NoFault));
        }
    }
    cases
}

/// A required field of the wrong type must be refused; of an optional one, a server may know less.
fn is_wrong(field: &Field, value: &Value) -> bool {
    let fits = match field.kind.as_str() {
        "string" => value.is_string(),
        "integer" | "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    field.required && !fits
}

fn due_for(field: &Field) -> Demand {
    // A type that nobody knows is refused as unknown, whatever else is wrong.
    if field.name == "/type" { BAD_TYPE } else { BAD_JSON }
}

fn is_inside_optional(endpoint: &Endpoint, field: &Field) -> bool {
    let Some((parent, _)) = field.name.rsplit_once('/') else { return false };
    endpoint.fields_in(Place::Body).any(|outer| outer.name == parent && !outer.required)
}

/// The body with an object wherever the pointer passes through.
fn with_parents(body: &Value, pointer: &str) -> Value {
    let mut body = body.clone();
    for (at, _) in pointer.match_indices('/').skip(1) {
        let parent = &pointer[..at];
        if !body.pointer(parent).is_some_and(Value::is_object) {
            set(&mut body, parent, json!({}));
        }
    }
    body
}

/// Numbers that canonical JSON does not have, and events that are too large.
fn bad_events(endpoint: &Endpoint, stage: &Stage) -> Vec<Case> {
    let numbers = ["1.5", "-0.1", "1e400", "9007199254740992", "-9007199254740992", "1e-7"];
    let mut cases = Vec::new();
    for number in numbers {
        for body in [format!("{{\"n\":{number}}}"), format!("{{\"a\":[{{\"n\":{number}}}]}}")] {
            let request = with_body(endpoint, stage, body.into_bytes());
            cases.push(case(format!("{number} in an event"), request, BAD_JSON));
        }
    }
    let large = json!({ "body": "x".repeat(65_536) }).to_string().into_bytes();
    let request = with_body(endpoint, stage, large);
    cases.push(case("an event of 64 KiB", request, Demand::Exactly(413, "M_TOO_LARGE")));
    cases
}
