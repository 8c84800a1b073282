//! Which keys exist and what kind of value each takes, derived from the types themselves.

use serde_json::Value;

use super::{Listener, ListenerKind, Secret, Settings, Tls};

/// A value of [`Settings`] in which everything optional is there and every list has an element, as
/// JSON: the map of all keys.
pub fn shape() -> Value {
    let mut settings = Settings::default();
    let mut listener = Listener::plain(ListenerKind::Client, "127.0.0.1:8008");
    listener.tls = Some(Tls {
        certificate_file: "c".into(),
        key_file: "k".into(),
        client_ca_file: Some("a".into()),
    });
    settings.listeners = vec![listener];
    settings.registration.tokens = vec![Secret::default()];
    settings.server.trusted_proxies = vec![String::new()];
    settings.sessions.app_hosts = vec![String::new()];
    settings.calls.turn_uris = vec![String::new()];
    settings.federation.allowed_servers = vec![String::new()];
    settings.egress.networks = vec![String::new()];
    settings.egress.push_gateways = vec![String::new()];
    settings.egress.preview_hosts = vec![String::new()];
    serde_json::to_value(settings).expect("settings are plain data")
}

/// The dotted paths of all keys below `shape`, sections included, the elements of lists excluded.
pub fn paths(shape: &Value, prefix: &str) -> Vec<String> {
    let Value::Object(table) = shape else { return Vec::new() };
    let mut found = Vec::new();
    for (key, value) in table {
        let path = join(prefix, key);
        found.extend(paths(value, &path));
        found.push(path);
    }
    found
}

/// `prefix.key`.
pub fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

/// What kind of value a key takes, in words.
pub fn kind_name(shape: &Value) -> &'static str {
    match shape {
        Value::String(_) => "a text in quotes",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number",
        Value::Number(_) => "a whole number, not negative",
        Value::Array(_) => "a list in brackets",
        Value::Object(_) => "a section",
        Value::Null => "nothing",
    }
}

/// A sentence that helps with an unknown key: the nearest name that exists.
pub fn suggestion(shape: &Value, section: &str, siblings: &Value, key: &str) -> String {
    /// Below this, names have nothing to do with each other.
    const SIMILARITY_MIN: f64 = 0.75;
    let Value::Object(siblings) = siblings else {
        return format!("\"{section}\" has no keys of its own");
    };
    let nearest = siblings
        .keys()
        .map(|name| (strsim::jaro_winkler(name, key), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((similarity, name)) = nearest
        && similarity >= SIMILARITY_MIN
    {
        return format!("did you mean \"{}\"?", join(section, name));
    }
    let suffix = format!(".{key}");
    if let Some(path) = paths(shape, "").into_iter().find(|path| path.ends_with(&suffix)) {
        return format!("did you mean \"{path}\"?");
    }
    let names: Vec<&str> = siblings.keys().map(String::as_str).collect();
    format!("known here: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_optional_key_is_on_the_map() {
        let shape = shape();
        assert!(shape["listeners"][0]["tls"]["key_file"].is_string());
        let all = paths(&shape, "");
        assert!(all.contains(&"rate_limits.failed_login.burst".to_owned()));
        for path in all {
            let value = path.split('.').fold(&shape, |value, key| &value[key]);
            assert!(!value.is_null(), "{path} has no kind");
            if let Value::Array(list) = value {
                assert_eq!(list.len(), 1, "{path}: shape() must give this list an element");
            }
        }
    }

    #[test]
    fn the_nearest_name_is_offered() {
        let shape = shape();
        let ask = |section: &str, key: &str| {
            let siblings = section.split('.').filter(|s| !s.is_empty()).fold(&shape, |v, k| &v[k]);
            suggestion(&shape, section, siblings, key)
        };
        assert_eq!(ask("server", "nmae"), "did you mean \"server.name\"?");
        assert_eq!(ask("", "sever"), "did you mean \"server\"?");
        assert_eq!(ask("server", "ttl_ms"), "did you mean \"media.ttl_ms\"?");
        assert!(ask("presence", "zzz").starts_with("known here: enabled"));
    }
}
