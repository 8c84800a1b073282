//! Registrations of application services ([spec]), read from files or given by the administrator.
//!
//! [spec]: https://spec.matrix.org/v1.19/application-service-api/#registration

use std::fmt;

use appliance_model::Error;
use appliance_model::ruma::{OwnedUserId, ServerName, UserId};
use http::Uri;
use regex::bytes::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::secret::Secret;

/// Expressions of one list. Every new event and every new name is held against each.
const NAMESPACES_MAX: usize = 1_000;
/// One expression, compiled. What is larger repeats something thousands of times.
const COMPILED_BYTES_MAX: usize = 1024 * 1024;
/// IDs and tokens: what fits into a key of the store and a header.
const NAME_BYTES_MAX: usize = 255;
/// Fewer can be guessed.
const TOKEN_BYTES_MIN: usize = 8;

/// The names that an application service is interested in.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(Vec<Namespace>);

#[derive(Clone, Debug)]
struct Namespace {
    regex: Regex,
    exclusive: bool,
}

impl Namespaces {
    /// Whether a name is in one of them.
    pub fn holds(&self, name: &str) -> bool {
        self.0.iter().any(|namespace| namespace.regex.is_match(name.as_bytes()))
    }

    /// Whether a name is in one that nobody else may use.
    pub fn holds_exclusively(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|namespace| namespace.exclusive && namespace.regex.is_match(name.as_bytes()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An application service, as registered.
#[derive(Clone)]
pub struct Registration {
    /// Its ID, which never changes.
    pub id: String,
    /// Where it is; `None` means that it is told nothing.
    pub url: Option<String>,
    /// What it shows this server.
    pub as_token: Secret,
    /// What this server shows it.
    pub hs_token: String,
    /// The user that it is when it names none.
    pub sender: OwnedUserId,
    /// The users that it speaks as.
    pub users: Namespaces,
    /// The aliases it has rooms for.
    pub aliases: Namespaces,
    /// The rooms it wants to hear of, by ID.
    pub rooms: Namespaces,
    /// Whether the users it speaks as are limited as people are; its sender never is.
    pub rate_limited: bool,
    /// The protocols that it can look names up in.
    pub protocols: Vec<String>,
    /// Whether it is told who types, who has read and who is there.
    pub receive_ephemeral: bool,
    /// Whether it is told of messages to devices, device lists and key counts (MSC3202, MSC4203).
    pub encryption: bool,
    /// The registration as JSON, to be kept.
    json: String,
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, url, sender, .. } = self;
        f.debug_struct("Registration")
            .field("id", id)
            .field("url", url)
            .field("sender", sender)
            .finish_non_exhaustive()
    }
}

/// As it is written in a file. Fields that other servers know and this one does not are passed over.
#[derive(Clone, Deserialize, Serialize)]
struct Written {
    id: String,
    url: Option<String>,
    as_token: String,
    hs_token: String,
    sender_localpart: String,
    namespaces: WrittenNamespaces,
    rate_limited: Option<bool>,
    protocols: Option<Vec<String>>,
    receive_ephemeral: Option<bool>,
    #[serde(rename = "de.sorunome.msc2409.push_ephemeral")]
    push_ephemeral: Option<bool>,
    #[serde(rename = "org.matrix.msc3202")]
    encryption: Option<bool>,
}

#[derive(Clone, Default, Deserialize, Serialize)]
struct WrittenNamespaces {
    #[serde(default)]
    users: Option<Vec<WrittenNamespace>>,
    #[serde(default)]
    aliases: Option<Vec<WrittenNamespace>>,
    #[serde(default)]
    rooms: Option<Vec<WrittenNamespace>>,
}

#[derive(Clone, Deserialize, Serialize)]
struct WrittenNamespace {
    regex: String,
    #[serde(default)]
    exclusive: bool,
}

impl Registration {
    /// Reads a registration. `server` is the name of this server.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::InvalidParam`] with a sentence that names the field, never a token.
    pub fn read(json: Value, server: &ServerName) -> Result<Self, Error> {
        // A parser's own words could repeat a token: only the fields' names are said.
        let written: Written = serde_json::from_value(json).map_err(|error| {
            let field = error.to_string();
            let field = if field.contains("missing field") { field } else { "wrong type".into() };
            invalid(format!(
                "it needs `id`, `url`, `as_token`, `hs_token`, `sender_localpart` and \
                 `namespaces` ({field})"
            ))
        })?;
        for (name, text) in [
            ("id", &written.id),
            ("as_token", &written.as_token),
            ("hs_token", &written.hs_token),
            ("sender_localpart", &written.sender_localpart),
        ] {
            if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control)
            {
                return Err(invalid(format!("`{name}` must have 1 to 255 bytes")));
            }
        }
        for (name, token) in [("as_token", &written.as_token), ("hs_token", &written.hs_token)] {
            if token.len() < TOKEN_BYTES_MIN {
                return Err(invalid(format!("`{name}` is too short: it needs 8 bytes")));
            }
        }
        let url = written.url.clone().filter(|url| !url.is_empty());
        if url.as_deref().is_some_and(|url| !is_url(url)) {
            return Err(invalid("`url` must begin with http:// or https:// and name a host"));
        }
        let sender = UserId::parse_with_server_name(written.sender_localpart.as_str(), server)
            .map_err(|_| invalid("`sender_localpart` is no local part of a user ID"))?;
        let json = serde_json::to_string(&written).map_err(Error::internal)?;
        let spaces = written.namespaces;
        Ok(Self {
            url: url.map(|url| url.trim_end_matches('/').to_owned()),
            sender,
            users: compile("users", spaces.users)?,
            aliases: compile("aliases", spaces.aliases)?,
            rooms: compile("rooms", spaces.rooms)?,
            rate_limited: written.rate_limited.unwrap_or(true),
            protocols: written.protocols.unwrap_or_default(),
            receive_ephemeral: written.receive_ephemeral == Some(true)
                || written.push_ephemeral == Some(true),
            encryption: written.encryption == Some(true),
            id: written.id,
            as_token: Secret::new(written.as_token),
            hs_token: written.hs_token,
            json,
        })
    }

    /// The registration as JSON, tokens included: for the store alone.
    pub(super) fn to_json(&self) -> &str {
        &self.json
    }

    /// Whether it may speak as this user.
    pub fn speaks_as(&self, user_id: &UserId) -> bool {
        self.sender == user_id
            || (user_id.server_name() == self.sender.server_name()
                && self.users.holds(user_id.as_str()))
    }

    /// Whether nobody but the service may have this user.
    pub fn owns_user(&self, user_id: &UserId) -> bool {
        self.sender == user_id
            || (user_id.server_name() == self.sender.server_name()
                && self.users.holds_exclusively(user_id.as_str()))
    }
}

fn compile(list: &str, written: Option<Vec<WrittenNamespace>>) -> Result<Namespaces, Error> {
    let written = written.unwrap_or_default();
    if written.len() > NAMESPACES_MAX {
        return Err(invalid(format!("`namespaces.{list}` has more than 1,000 entries")));
    }
    let one = |WrittenNamespace { regex, exclusive }: WrittenNamespace| {
        // Other servers look for a match at the beginning of the name, and let it end where it
        // likes; registrations are written for that.
        let compiled = RegexBuilder::new(&format!("^(?:{regex})"))
            // User IDs are ASCII, and tables of all the world's letters are large.
            .unicode(false)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default();
                invalid(format!("`namespaces.{list}`: \"{regex}\" is no usable expression: {why}"))
            })?;
        Ok(Namespace { regex: compiled, exclusive })
    };
    Ok(Namespaces(written.into_iter().map(one).collect::<Result<_, Error>>()?))
}

fn is_url(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
        && uri.query().is_none()
}

fn invalid(why: impl fmt::Display) -> Error {
    Error::invalid_param(format!("This registration cannot be used: {why}."))
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::{server_name, user_id};
    use serde_json::json;

    use super::*;

    fn whole() -> Value {
        json!({
            "id": "bridge", "url": "http://127.0.0.1:9000/", "as_token": "as-secret",
            "hs_token": "hs-secret", "sender_localpart": "bridgebot",
            "namespaces": { "users": [{ "regex": "@pager_.*", "exclusive": true }], "rooms": null },
            "something.else": 7,
        })
    }

    fn read(json: Value) -> Result<Registration, Error> {
        Registration::read(json, server_name!("hospital.example"))
    }

    #[test]
    fn a_registration_owns_its_sender_and_its_users_on_this_server() {
        let bridge = read(whole()).unwrap();
        assert_eq!(bridge.url.as_deref(), Some("http://127.0.0.1:9000"));
        assert!(bridge.rate_limited && !bridge.receive_ephemeral);
        assert!(bridge.owns_user(user_id!("@bridgebot:hospital.example")));
        assert!(bridge.owns_user(user_id!("@pager_7:hospital.example")));
        assert!(!bridge.speaks_as(user_id!("@pager_7:clinic.example")), "of another server");
        assert!(!bridge.speaks_as(user_id!("@nurse:hospital.example")));
        let shown = format!("{bridge:?}");
        assert!(!shown.contains("secret"), "{shown}");
        let again = read(serde_json::from_str(bridge.to_json()).unwrap()).unwrap();
        assert!(again.owns_user(user_id!("@pager_7:hospital.example")), "what is kept is whole");
    }

    #[test]
    fn what_cannot_be_used_is_named_without_its_tokens() {
        for (field, value) in [
            ("id", json!("")),
            ("id", Value::Null),
            ("as_token", json!("short")),
            ("as_token", json!(["as-secret"])),
            ("hs_token", json!("x".repeat(256))),
            ("url", json!("ftp://bridge.example")),
            ("url", json!("bridge")),
            ("sender_localpart", json!("a:b")),
            ("namespaces", json!({ "users": [{ "regex": "(", "exclusive": true }] })),
            ("namespaces", json!({ "users": [{ "regex": "(?=x)", "exclusive": true }] })),
            ("namespaces", json!({ "aliases": [{ "regex": "(a{999}){999}" }] })),
        ] {
            let mut json = whole();
            json[field] = value;
            let refused = read(json).unwrap_err();
            assert_eq!(refused.kind, appliance_model::Kind::InvalidParam, "{field}");
            let message = &refused.message;
            assert!(!message.contains("as-secret") && !message.contains("hs-secret"), "{message}");
        }
    }
}
