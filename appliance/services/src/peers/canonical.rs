//! Canonical JSON of requests ([spec]). Ruma's own refuses numbers that canonical JSON has no form for;
//! but a transaction must not be refused as a whole because one event in it has such a number.
//!
//! [spec]: https://spec.matrix.org/v1.19/appendices/#canonical-json

use serde_json::Value;

/// The shortest form of a value, with sorted keys.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

/// What comes from outside was found not to be nested too deep before it comes here.
fn write(value: &Value, text: &mut String) {
    match value {
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            // "sorted lexicographically by unicode codepoint", which is the order of UTF-8's bytes.
            fields.sort_unstable_by_key(|(name, _)| name.as_str());
            text.push('{');
            for (index, (name, value)) in fields.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_what_ruma_writes_where_ruma_writes_anything() {
        let value =
            json!({"b": [1, {"z": null, "a": "\u{7f}\n\"ü"}], "a": true, "日": -7, "本": {}});
        let ruma: appliance_model::ruma::CanonicalJsonValue =
            serde_json::from_value(value.clone()).unwrap();
        assert_eq!(canonical(&value), ruma.to_string());
        assert_eq!(canonical(&json!({"b": 1.5, "a": 2})), r#"{"a":2,"b":1.5}"#);
    }
}
