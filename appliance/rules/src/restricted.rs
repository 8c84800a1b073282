//! Rooms that members of other rooms may join without an invite ([restricted rooms]).
//!
//! [restricted rooms]: https://spec.matrix.org/v1.19/client-server-api/#restricted-rooms

use appliance_model::Pdu;
use appliance_model::ruma::OwnedRoomId;
use appliance_model::ruma::room_version_rules::AuthorizationRules;
use serde::Deserialize;
use serde_json::value::RawValue;

/// More conditions than this are not looked at: each costs a look into another room.
const CONDITIONS_MAX: usize = 100;

/// The rooms whose members may join, if the join rule is a restricted one in this room version.
pub fn rooms_that_open(join_rules: &Pdu, rules: &AuthorizationRules) -> Option<Vec<OwnedRoomId>> {
    rooms_that_open_by(join_rules.content.get(), rules)
}

/// The same by the content of the join rules, as JSON.
pub fn rooms_that_open_by(
    join_rules: &str,
    rules: &AuthorizationRules,
) -> Option<Vec<OwnedRoomId>> {
    #[derive(Deserialize)]
    struct Content<'a> {
        join_rule: String,
        #[serde(borrow, default)]
        allow: Vec<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Condition {
        #[serde(rename = "type")]
        kind: String,
        room_id: OwnedRoomId,
    }
    let content: Content<'_> = serde_json::from_str(join_rules).ok()?;
    let restricted = match content.join_rule.as_str() {
        "restricted" => rules.restricted_join_rule,
        "knock_restricted" => rules.knock_restricted_join_rule,
        _ => false,
    };
    // "Unknown types … are ignored", and so are conditions that are malformed.
    let conditions = content.allow.iter().take(CONDITIONS_MAX);
    let conditions = conditions.filter_map(|raw| serde_json::from_str::<Condition>(raw.get()).ok());
    let rooms = conditions.filter(|one| one.kind == "m.room_membership").map(|one| one.room_id);
    restricted.then(|| rooms.collect())
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::RoomVersionId;
    use serde_json::{Value, json};

    use super::*;

    fn opened_by(content: &Value, version: &RoomVersionId) -> Option<Vec<String>> {
        let event = json!({
            "content": content,
            "origin_server_ts": 1,
            "sender": "@a:hospital.example",
            "state_key": "",
            "type": "m.room.join_rules",
        });
        let pdu = Pdu::parse(
            "$e".try_into().unwrap(),
            "!r:hospital.example".try_into().unwrap(),
            event.to_string().into_bytes().into(),
            true,
        );
        let rules = version.rules().unwrap().authorization;
        let rooms = rooms_that_open(&pdu.unwrap(), &rules)?;
        Some(rooms.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_version_knows_its_rules_and_strange_conditions_are_ignored() {
        let allow = json!([
            { "type": "m.room_membership", "room_id": "!ward:hospital.example" },
            { "type": "example.badge", "room_id": "!other:hospital.example" },
            { "type": "m.room_membership", "room_id": 7 },
            "nonsense",
        ]);
        let (restricted, knock) = (
            json!({ "join_rule": "restricted", "allow": allow }),
            json!({ "join_rule": "knock_restricted", "allow": allow }),
        );
        let ward = Some(vec!["!ward:hospital.example".to_owned()]);
        assert_eq!(opened_by(&restricted, &RoomVersionId::V7), None);
        assert_eq!(opened_by(&restricted, &RoomVersionId::V8), ward);
        assert_eq!(opened_by(&knock, &RoomVersionId::V9), None);
        assert_eq!(opened_by(&knock, &RoomVersionId::V10), ward);
        assert_eq!(opened_by(&json!({ "join_rule": "public" }), &RoomVersionId::V11), None);
        assert_eq!(opened_by(&json!({}), &RoomVersionId::V11), None);
    }
}
