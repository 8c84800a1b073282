//! A policy as one scope says it, and what holds when all scopes have spoken.

use serde_json::{Map, Value};

use super::classes::RoomClass;
use super::field::{FIELDS, Field};

/// The state event that holds a room's policy; its state key is empty. The same object in the content
/// of a message is a hint for what that message shows.
pub const POLICY_TYPE: &str = "io.wardstone.policy";

/// What one scope says. What it does not say, it leaves to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The class of the room, if it names one.
    pub class: Option<RoomClass>,
    values: [Option<u64>; FIELDS],
}

impl Default for Policy {
    fn default() -> Self {
        Self { class: None, values: [None; FIELDS] }
    }
}

impl Policy {
    /// A policy of these values.
    pub(super) fn of(values: impl IntoIterator<Item = (Field, u64)>) -> Self {
        let mut policy = Self::default();
        for (field, value) in values {
            policy.values[field as usize] = Some(value);
        }
        policy
    }

    /// What stands in for a policy that cannot be read: nothing may be allowed by a mistake.
    pub fn unreadable() -> Self {
        Self { class: Some(RoomClass::ClinicalPhoto), ..Self::default() }
    }

    /// Reads the content of a policy event.
    ///
    /// # Errors
    ///
    /// A sentence, if it cannot be kept as it is written. A server that guesses would promise what it
    /// does not do.
    pub fn parse(content: &str) -> Result<Self, String> {
        let value = serde_json::from_str::<Value>(content).map_err(|_| malformed())?;
        Self::from_json(&value)
    }

    /// The same, parsed already.
    ///
    /// # Errors
    ///
    /// As [`Policy::parse`].
    pub fn from_json(value: &Value) -> Result<Self, String> {
        let policy = Self::of_house(value)?;
        let is_out_of_place =
            |field: &Field| field.is_of_house_only() && policy.get(*field).is_some();
        match Field::all().find(is_out_of_place) {
            None => Ok(policy),
            Some(field) => Err(format!(
                "`{}` is said for the whole house only, below `server` of its policy.",
                field.path()
            )),
        }
    }

    /// What the house says for everyone.
    ///
    /// # Errors
    ///
    /// As [`Policy::parse`].
    pub(super) fn of_house(value: &Value) -> Result<Self, String> {
        let object = value.as_object().ok_or_else(malformed)?;
        let mut policy = Self::default();
        for (key, value) in object {
            match key.as_str() {
                "class" => {
                    policy.class = Some(class_of(value)?);
                }
                "archive" if value == "none" => {}
                "archive" => return Err("`archive` can only be `none` here.".to_owned()),
                _ => policy.read_group(key, value)?,
            }
        }
        Ok(policy)
    }

    fn read_group(&mut self, group: &str, value: &Value) -> Result<(), String> {
        let fields = value.as_object().ok_or_else(malformed)?;
        for (key, value) in fields {
            match (group, key.as_str(), value) {
                // A word of the design that says what the server does anyway: everything that a
                // message shows is governed, whatever its type.
                ("media", "applies_to", Value::Array(_) | Value::String(_)) => {}
                ("media", "ttl_from", _) => {}
                ("media", "ttl_ms", _) => self.read_ttl(fields)?,
                ("device", "session_max_ms" | "session_idle_ms", Value::Object(classes)) => {
                    for (class, value) in classes {
                        self.read(&format!("{group}.{key}.{class}"), value)?;
                    }
                }
                _ => self.read(&format!("{group}.{key}"), value)?,
            }
        }
        Ok(())
    }

    /// `ttl_ms` counts from what `ttl_from` says: `send` (which is meant without it), or
    /// `first_open`; then the limits of the other scopes count from sending all the same.
    fn read_ttl(&mut self, media: &Map<String, Value>) -> Result<(), String> {
        let value = media.get("ttl_ms").unwrap_or(&Value::Null);
        match media.get("ttl_from").map(Value::as_str) {
            None | Some(Some("send")) => self.read("media.ttl_ms", value),
            Some(Some("first_open")) => self.read("media.ttl_after_open_ms", value),
            Some(_) => Err("`media.ttl_from` is `send` or `first_open`.".to_owned()),
        }
    }

    fn read(&mut self, path: &str, value: &Value) -> Result<(), String> {
        let Some(field) = Field::at(path) else {
            let known: Vec<_> = Field::all().map(Field::path).collect();
            return Err(format!("This server has no rule `{path}`. It has: {}.", known.join(", ")));
        };
        self.values[field as usize] = Some(field.read(value)?);
        Ok(())
    }

    /// What it says about a field.
    pub fn get(&self, field: Field) -> Option<u64> {
        self.values[field as usize]
    }

    /// It says nothing at all.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// As people write it.
    pub fn to_json(&self) -> Value {
        let mut whole = Map::new();
        if let Some(class) = self.class {
            whole.insert("class".to_owned(), class.as_str().into());
        }
        for field in Field::all() {
            if let Some(value) = self.get(field) {
                insert(&mut whole, field.path(), field.say(value));
            }
        }
        whole.into()
    }
}

fn insert(object: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            object.insert(path.to_owned(), value);
        }
        Some((group, rest)) => {
            let group = object.entry(group).or_insert_with(|| Map::new().into());
            if let Some(group) = group.as_object_mut() {
                insert(group, rest, value);
            }
        }
    }
}

fn class_of(value: &Value) -> Result<RoomClass, String> {
    value.as_str().and_then(RoomClass::parse).ok_or_else(|| {
        let words: Vec<_> = RoomClass::ALL.map(RoomClass::as_str).to_vec();
        format!("`class` is one of: {}.", words.join(", "))
    })
}

fn malformed() -> String {
    "A policy is like {\"class\": \"clinical-photo\", \"media\": {\"ttl_ms\": 86400000}}."
        .to_owned()
}

/// Who says something, from the outermost to the innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// What this server can do at all, and its settings.
    Settings,
    /// The house policy, for everyone.
    Server,
    /// The house policy, for the reader's role.
    Role,
    /// The class of the room.
    Class,
    /// The room itself.
    Room,
    /// The message that shows the file.
    Event,
}

impl Scope {
    /// The word that people read.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Settings => "settings",
            Self::Server => "server",
            Self::Role => "role",
            Self::Class => "class",
            Self::Room => "room",
            Self::Event => "event",
        }
    }
}

/// What holds when all scopes have spoken: the strictest value of every field, and who said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    values: [Option<(u64, Scope)>; FIELDS],
}

impl Default for Effective {
    fn default() -> Self {
        Self { values: [None; FIELDS] }
    }
}

impl Effective {
    /// Lets scopes meet. Their order does not matter.
    pub fn of<'a>(scopes: impl IntoIterator<Item = (Scope, &'a Policy)>) -> Self {
        let mut effective = Self::default();
        for (scope, policy) in scopes {
            effective.meet(scope, policy);
        }
        effective
    }

    /// Lets one more scope speak: nothing becomes looser.
    pub fn meet(&mut self, scope: Scope, policy: &Policy) {
        for field in Field::all() {
            let Some(value) = policy.get(field) else { continue };
            let held = &mut self.values[field as usize];
            *held = Some(match *held {
                None => (value, scope),
                Some((is, by)) => {
                    let strictest = field.stricter(is, value);
                    // Where two say the same, the outermost is named; where each adds a part, too.
                    let by = match (strictest == is, strictest == value) {
                        (true, false) => by,
                        (false, true) => scope,
                        _ => by.min(scope),
                    };
                    (strictest, by)
                }
            });
        }
    }

    /// Lets everything speak that holds elsewhere too.
    pub fn meet_all(&mut self, other: &Self) {
        for field in Field::all() {
            if let Some((value, scope)) = other.values[field as usize] {
                self.meet(scope, &Policy::of([(field, value)]));
            }
        }
    }

    /// What holds.
    pub fn get(&self, field: Field) -> Option<u64> {
        self.values[field as usize].map(|(value, _)| value)
    }

    /// Who said what holds.
    pub fn said_by(&self, field: Field) -> Option<Scope> {
        self.values[field as usize].map(|(_, scope)| scope)
    }

    /// What a policy asks for that is looser than what holds: it is ignored.
    pub fn ignored<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = Field> + 'a {
        Field::all().filter(|field| {
            let asked = policy.get(*field);
            let differs = asked.is_some_and(|asked| self.get(*field).is_some_and(|is| is != asked));
            // Parts of a watermark are all written; none is ignored.
            differs && *field != Field::Watermark
        })
    }

    /// Every field that somebody spoke about: `{"media.ttl_ms": {"value": 1000, "by": "room"}}`.
    pub fn to_json(&self) -> Value {
        let mut whole = Map::new();
        for field in Field::all() {
            if let Some((value, by)) = self.values[field as usize] {
                let said = serde_json::json!({ "value": field.say(value), "by": by.as_str() });
                whole.insert(field.path().to_owned(), said);
            }
        }
        whole.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ttl(content: &str) -> Result<Option<u64>, String> {
        Policy::parse(content).map(|policy| policy.get(Field::TtlMs))
    }

    #[test]
    fn a_policy_is_kept_as_written_or_refused() {
        assert_eq!(ttl(r#"{"media":{"ttl_ms":86400000}}"#), Ok(Some(86_400_000)));
        assert_eq!(ttl(r#"{"media":{"ttl_ms":1000},"class":"clinical-photo"}"#), Ok(Some(1_000)));
        assert_eq!(ttl("{}"), Ok(None));
        assert_eq!(ttl(r#"{"media":{}}"#), Ok(None));
        for bad in [
            r#"{"media":{"ttl_ms":999}}"#,
            r#"{"media":{"ttl_ms":-5}}"#,
            r#"{"media":{"ttl_ms":"1 day"}}"#,
            r#"{"media":{"ttl_ms":5000,"ttl_from":"never"}}"#,
            r#"{"media":{"lifetime":5000}}"#,
            r#"{"media":[]}"#,
            r#"{"class":"secret"}"#,
            r#"{"device":{"unmanaged":"blur"}}"#,
            r#"{"device":{"block_screenshots":true}}"#,
            r#"{"calls":{"ttl_ms":604800000}}"#,
            r#"{"device":{"session_max_ms":{"peer-user":86400000}}}"#,
            r#"{"archive":"ehr"}"#,
            r#"{"device":{"unmanaged_encryption":"none"}}"#,
            r#"{"media_ttl_ms":60000}"#,
            "[]",
        ] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_said_can_be_said_again() {
        let content = r#"{"class":"clinical-shared",
            "media":{"ttl_ms":86400000,"ttl_from":"first_open","max_opens":20,"open_window_ms":120000,
                     "applies_to":["m.image"],"on_expiry":"redact+erase","inherit_by_hash":true},
            "device":{"managed":"original","unmanaged":"placeholder","watermark":"{user} {time}",
                      "session_max_ms":{"unmanaged":43200000}},
            "federation":{"ours":"lease","other":"deny"},"archive":"none"}"#;
        let policy = Policy::parse(content).unwrap();
        assert_eq!(policy.get(Field::TtlAfterOpenMs), Some(86_400_000));
        assert_eq!(policy.get(Field::TtlMs), None);
        assert_eq!(policy.get(Field::SessionUnmanagedMs), Some(43_200_000));
        assert_eq!(Policy::from_json(&policy.to_json()), Ok(policy));
    }

    #[test]
    fn the_strictest_wins_and_is_named() {
        let server = Policy::parse(r#"{"media":{"ttl_ms":10000}}"#).unwrap();
        let room = Policy::parse(r#"{"media":{"ttl_ms":20000,"max_opens":2}}"#).unwrap();
        let both = Effective::of([(Scope::Server, &server), (Scope::Room, &room)]);
        assert_eq!(both.get(Field::TtlMs), Some(10_000));
        assert_eq!(both.said_by(Field::TtlMs), Some(Scope::Server));
        assert_eq!(both.said_by(Field::OpensMax), Some(Scope::Room));
        assert_eq!(both.ignored(&room).collect::<Vec<_>>(), [Field::TtlMs]);
    }
}
