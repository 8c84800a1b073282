//! What the specification declares, endpoint by endpoint: the ground the malformed-input sweep walks.
//!
//! `data/README.md` says where the list comes from.

use http::Method;
use serde_json::{Map, Value, json};

/// One endpoint of the specification.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The method.
    pub method: Method,
    /// The path, with its variables in braces.
    pub path: String,
    /// Who may call.
    pub access: Access,
    /// What its body is.
    pub body: BodyKind,
    /// What is declared in path, query and body.
    pub fields: Vec<Field>,
}

/// Who may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone.
    Open,
    /// Anyone; a token says more.
    Optional,
    /// Users.
    User,
    /// Other servers, application services: not met by this sweep with a valid credential.
    Machine,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// Nothing is read.
    None,
    /// An object.
    Json,
    /// A file.
    Bytes,
}

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A variable of the path.
    Path,
    /// After the question mark.
    Query,
    /// In the JSON body.
    Body,
}

/// One declared field.
#[derive(Clone, Debug)]
pub struct Field {
    /// Where it is.
    pub place: Place,
    /// Its name; in a body, its JSON pointer.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean`, `array`, `object` or `any`.
    pub kind: String,
    /// Whether a request without it is wrong.
    pub required: bool,
    /// The first of the only values allowed, if there are such.
    pub one_of: Option<Value>,
}

/// All endpoints.
pub fn all() -> Vec<Endpoint> {
    include_str!("../data/endpoints.jsonl").lines().map(parse).collect()
}

fn parse(line: &str) -> Endpoint {
    let given: Value = serde_json::from_str(line).expect("a line of endpoints.jsonl");
    let word = |value: &Value, name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let field = |field: &Value| Field {
        place: match word(field, "in").as_str() {
            "path" => Place::Path,
            "query" => Place::Query,
            _ => Place::Body,
        },
        name: word(field, "name"),
        kind: word(field, "type"),
        required: field["required"] == json!(true),
        one_of: field.get("one_of").and_then(|values| values.get(0)).cloned(),
    };
    Endpoint {
        method: word(&given, "method").parse().expect("a method"),
        path: word(&given, "path"),
        access: match word(&given, "access").as_str() {
            "none" => Access::Open,
            "optional" => Access::Optional,
            "token" => Access::User,
            _ => Access::Machine,
        },
        body: match word(&given, "body").as_str() {
            "json" => BodyKind::Json,
            "bytes" => BodyKind::Bytes,
            _ => BodyKind::None,
        },
        fields: given["fields"].as_array().into_iter().flatten().map(field).collect(),
    }
}

impl Endpoint {
    /// `METHOD /path`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The declared fields of one place.
    pub fn fields_in(&self, place: Place) -> impl Iterator<Item = &Field> {
        self.fields.iter().filter(move |field| field.place == place)
    }

    /// The path with every variable replaced, percent-encoded.
    pub fn path_with(&self, value: impl Fn(&str) -> String) -> String {
        let mut path = self.path.clone();
        for field in self.fields_in(Place::Path) {
            let raw = value(&field.name);
            let encoded: String = raw.bytes().map(percent_encoded).collect();
            path = path.replace(&format!("{{{}}}", field.name), &encoded);
        }
        path
    }

    /// A body with every required field, of the declared type.
    pub fn valid_body(&self, value: impl Fn(&Field) -> Value) -> Value {
        let mut body = Value::Object(Map::new());
        for field in self.fields_in(Place::Body).filter(|field| field.required) {
            set(&mut body, &field.name, value(field));
        }
        body
    }
}

/// Puts a value at a JSON pointer, if the object around it is there.
pub fn set(body: &mut Value, pointer: &str, value: Value) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    let name = name.replace("~1", "/").replace("~0", "~");
    if let Some(Value::Object(object)) = body.pointer_mut(parent) {
        object.insert(name, value);
    }
}

/// Takes a value away from a JSON pointer.
pub fn unset(body: &mut Value, pointer: &str) {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return };
    let name = name.replace("~1", "/").replace("~0", "~");
    if let Some(Value::Object(object)) = body.pointer_mut(parent) {
        object.remove(&name);
    }
}

fn percent_encoded(byte: u8) -> String {
    match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        _ => format!("%{byte:02X}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let all = all();
        assert_eq!(all.len(), 200, "as many as the specification declares");
        let send = all.iter().find(|e| e.path.ends_with("/send/{eventType}/{txnId}"));
        let send = send.expect("the endpoint every client needs");
        assert_eq!((send.access, send.body), (Access::User, BodyKind::Json));
        let path = send.path_with(|name| format!("{name}/1"));
        assert!(path.ends_with("/rooms/roomId%2F1/send/eventType%2F1/txnId%2F1"), "{path}");
    }

    #[test]
    fn fields_are_set_where_their_pointer_says() {
        let mut body = json!({ "outer": {} });
        set(&mut body, "/outer/a~1b", json!(1));
        set(&mut body, "/absent/field", json!(2));
        assert_eq!(body, json!({ "outer": { "a/b": 1 } }));
        unset(&mut body, "/outer/a~1b");
        assert_eq!(body, json!({ "outer": {} }));
    }
}
