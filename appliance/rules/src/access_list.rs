//! What a room's access list (`m.room.server_acl`, [spec]) may say: who takes part is one of the servers
//! that this one has to do with, and every one of them is named. A pattern such as `*` would let in whom
//! another server knows and this one does not.
//!
//! [spec]: https://spec.matrix.org/v1.19/client-server-api/#server-access-control-lists-acls-for-rooms

use std::collections::BTreeSet;

use appliance_model::ruma::events::room::server_acl::RoomServerAclEventContent;
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName};

/// In the content of a list that names all: it is kept in step when there are others.
pub const KEPT: &str = "io.wardstone.kept";

/// The servers that may take part, this one among them. Access lists know hosts, without ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    own: OwnedServerName,
    all: BTreeSet<OwnedServerName>,
}

impl Hosts {
    /// This server and others.
    pub fn of(own: &ServerName, others: impl IntoIterator<Item = OwnedServerName>) -> Self {
        let others = others.into_iter();
        let all = others.chain([own.to_owned()]).filter_map(|name| host_of(name.as_str()));
        Self { own: own.to_owned(), all: all.collect() }
    }

    /// The list that names all of them.
    pub fn whole(&self) -> CanonicalJsonObject {
        let mut content = CanonicalJsonObject::new();
        content.insert("deny".to_owned(), CanonicalJsonValue::Array(Vec::new()));
        self.put_all(&mut content);
        content
    }

    /// What one of our people asks for, with every pattern spelt out.
    ///
    /// # Errors
    ///
    /// A sentence: it names a server that is none of these, it is no list, or it keeps out this server.
    pub fn narrowed(&self, asked: &CanonicalJsonObject) -> Result<CanonicalJsonObject, String> {
        let mut allow = BTreeSet::new();
        let mut is_everyone = asked.get(KEPT) == Some(&CanonicalJsonValue::Bool(true));
        for pattern in names_in(asked, "allow")? {
            is_everyone |= pattern == "*";
            if is_pattern(pattern) {
                allow.extend(self.matching(pattern));
                continue;
            }
            let named = host_of(pattern).filter(|host| self.all.contains(host));
            allow.insert(named.ok_or_else(|| stranger(pattern))?);
        }
        names_in(asked, "deny")?;
        let mut content = asked.clone();
        content.remove(KEPT);
        if is_everyone && allow == self.all {
            self.put_all(&mut content);
        } else {
            put_names(&mut content, &allow);
        }
        match admits(&content, &self.own) {
            true => Ok(content),
            false => Err(LOCKED_OUT.to_owned()),
        }
    }

    /// A list as it has to be now; none if it is so. One that names all goes on naming all, another
    /// loses whom it may no longer name.
    pub fn kept(&self, now: Option<&CanonicalJsonObject>) -> Option<CanonicalJsonObject> {
        let readable =
            now.filter(|now| names_in(now, "allow").is_ok() && names_in(now, "deny").is_ok());
        let Some(now) = readable else { return Some(self.whole()) };
        let mut content = now.clone();
        let patterns = names_in(now, "allow").unwrap_or_default();
        let is_marked = now.get(KEPT) == Some(&CanonicalJsonValue::Bool(true));
        if is_marked || patterns.contains(&"*") {
            self.put_all(&mut content);
        } else {
            let allow = patterns.into_iter().flat_map(|pattern| self.matching(pattern)).collect();
            put_names(&mut content, &allow);
        }
        // A room that keeps out its own server is beyond what a list can mend.
        (content != *now && admits(&content, &self.own)).then_some(content)
    }

    fn matching(&self, pattern: &str) -> Vec<OwnedServerName> {
        let host = host_of(pattern).map(|host| host.to_string());
        let pattern =
            if is_pattern(pattern) { pattern.to_owned() } else { host.unwrap_or_default() };
        let list = RoomServerAclEventContent::new(true, vec![pattern], Vec::new());
        self.all.iter().filter(|host| list.is_allowed(host)).cloned().collect()
    }

    fn put_all(&self, content: &mut CanonicalJsonObject) {
        put_names(content, &self.all);
        content.insert(KEPT.to_owned(), CanonicalJsonValue::Bool(true));
        // "strongly recommended to be set to false": unless one of ours has no other name.
        let has_literal = self.all.iter().any(|host| host.is_ip_literal());
        let is_said = content.get("allow_ip_literals") == Some(&CanonicalJsonValue::Bool(true));
        let allowed = CanonicalJsonValue::Bool(has_literal || is_said);
        content.insert("allow_ip_literals".to_owned(), allowed);
    }
}

/// Looks at the names in a list that somebody of ours sets, where those that may be named cannot be counted up:
/// patterns stay as they are.
///
/// # Errors
///
/// A sentence: it names a server that is no peer, it is no list, or it keeps out this server.
pub fn check_names(
    asked: &CanonicalJsonObject,
    own: &ServerName,
    is_peer: impl Fn(&ServerName) -> bool,
) -> Result<(), String> {
    for name in names_in(asked, "allow")?.into_iter().filter(|name| !is_pattern(name)) {
        let host = host_of(name);
        let is_own = host.as_ref().is_some_and(|host| host.as_str() == own.host());
        if !is_own && !host.is_some_and(|host| is_peer(&host)) {
            return Err(stranger(name));
        }
    }
    names_in(asked, "deny")?;
    match admits(asked, own) {
        true => Ok(()),
        false => Err(LOCKED_OUT.to_owned()),
    }
}

fn stranger(name: &str) -> String {
    format!("{name} is not on this server's list of peers: rooms here cannot let it in.")
}

/// Whoever sets such a list would be in the room alone, and not for long.
const LOCKED_OUT: &str =
    "This list would keep your own server out of the room: name it in `allow`, not in `deny`.";

fn put_names(content: &mut CanonicalJsonObject, allow: &BTreeSet<OwnedServerName>) {
    let names = allow.iter().map(|host| CanonicalJsonValue::String(host.to_string())).collect();
    content.insert("allow".to_owned(), CanonicalJsonValue::Array(names));
}

/// What an access list that cannot be read would mean is: everybody.
fn names_in<'a>(content: &'a CanonicalJsonObject, key: &str) -> Result<Vec<&'a str>, String> {
    let wrong = || format!("`{key}` of an access list is a list of server names.");
    match content.get(key) {
        None => Ok(Vec::new()),
        Some(CanonicalJsonValue::Array(names)) => {
            names.iter().map(|name| name.as_str().ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

fn is_pattern(name: &str) -> bool {
    name.contains(['*', '?'])
}

/// "The server names … excluding any port information", whichever case they are written in.
fn host_of(name: &str) -> Option<OwnedServerName> {
    let name = ServerName::parse(name.to_ascii_lowercase()).ok()?;
    ServerName::parse(name.host()).ok()
}

fn admits(content: &CanonicalJsonObject, server: &ServerName) -> bool {
    let json = serde_json::to_string(content).unwrap_or_default();
    serde_json::from_str::<RoomServerAclEventContent>(&json)
        .is_ok_and(|content| content.is_allowed(server))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn hosts(others: &[&str]) -> Hosts {
        let others = others.iter().map(|name| ServerName::parse(*name).unwrap());
        Hosts::of(&ServerName::parse("a.example:8448").unwrap(), others)
    }

    fn object(value: Value) -> CanonicalJsonObject {
        serde_json::from_value(value).unwrap()
    }

    fn allow(content: &CanonicalJsonObject) -> Value {
        serde_json::to_value(content).unwrap()["allow"].clone()
    }

    #[test]
    fn all_are_named_without_ports_and_patterns_are_spelt_out() {
        let two = hosts(&["b.example:8448", "c.example"]);
        let all = json!(["a.example", "b.example", "c.example"]);
        assert_eq!(allow(&two.whole()), all);
        assert_eq!(two.whole()["allow_ip_literals"], CanonicalJsonValue::Bool(false));
        let asked = object(json!({ "allow": ["*"], "deny": ["evil.*"] }));
        let given = two.narrowed(&asked).unwrap();
        assert_eq!(allow(&given), all);
        assert_eq!((given.get("deny"), given.contains_key(KEPT)), (asked.get("deny"), true));
        assert_eq!(two.narrowed(&given), Ok(given.clone()), "said again it is the same");
        let some = object(json!({ "allow": ["A.example", "b.*"] }));
        let some = two.narrowed(&some).unwrap();
        assert_eq!(
            (allow(&some), some.contains_key(KEPT)),
            (json!(["a.example", "b.example"]), false)
        );
        let literal = hosts(&["10.1.2.3:8448"]).whole();
        assert_eq!(literal["allow_ip_literals"], CanonicalJsonValue::Bool(true));
    }

    #[test]
    fn strangers_locks_and_nonsense_are_refused() {
        let two = hosts(&["b.example"]);
        for (asked, word) in [
            (json!({ "allow": ["a.example", "x.example"] }), "x.example"),
            (json!({ "allow": ["*"], "deny": ["a.*"] }), "your own server"),
            (json!({ "allow": ["b.example"] }), "your own server"),
            (json!({}), "your own server"),
            (json!({ "allow": "*" }), "`allow`"),
            (json!({ "allow": ["*"], "deny": [1] }), "`deny`"),
        ] {
            let why = two.narrowed(&object(asked.clone())).unwrap_err();
            assert!(why.contains(word), "{asked}: {why}");
        }
    }

    #[test]
    fn a_list_follows_who_is_on_the_list_and_keeps_what_people_chose() {
        let (before, after) =
            (hosts(&["b.example", "c.example"]), hosts(&["b.example", "d.example"]));
        let all = after.kept(Some(&before.whole())).unwrap();
        assert_eq!(allow(&all), json!(["a.example", "b.example", "d.example"]));
        assert_eq!(after.kept(Some(&all)), None, "as it has to be");
        let chosen = object(json!({ "allow": ["a.example", "c.example"], "x": 1 }));
        let left = after.kept(Some(&chosen)).unwrap();
        assert_eq!((allow(&left), left.contains_key("x")), (json!(["a.example"]), true));
        assert_eq!(after.kept(Some(&left)), None, "nobody is added to what people chose");
        let open = object(json!({ "allow": ["*"] }));
        assert_eq!(allow(&after.kept(Some(&open)).unwrap()), allow(&after.whole()));
        for broken in [None, Some(object(json!({ "allow": 7 })))] {
            assert_eq!(after.kept(broken.as_ref()), Some(after.whole()));
        }
        let locked = object(json!({ "allow": ["*"], "deny": ["*"] }));
        assert_eq!(after.kept(Some(&locked)), None);
    }
}
