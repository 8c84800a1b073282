//! Events in the form clients see, cut out of the stored JSON without parsing it.

use appliance_ledger::Event;
use appliance_model::ruma::events::room::member::MembershipState;

/// What belongs in [`unsigned`], besides the event itself.
///
/// [`unsigned`]: https://spec.matrix.org/v1.19/client-server-api/#definition-clientevent_unsigneddata
#[derive(Clone, Copy, Debug, Default)]
pub struct Unsigned<'a> {
    /// Milliseconds since the event was sent.
    pub age_ms: Option<u64>,
    /// The transaction ID, for the device that sent it.
    pub transaction_id: Option<&'a str>,
    /// The content of the state event it replaced, as JSON, if the reader may see that one.
    pub prev_content: Option<&'a str>,
    /// The ID of the state event it replaced.
    pub replaces_state: Option<&'a str>,
    /// The event that redacted it, in client form.
    pub redacted_because: Option<&'a str>,
    /// The reader's membership at the time of the event.
    pub membership: Option<&'a MembershipState>,
    /// What relates to it, in sum, as JSON.
    pub relations: Option<&'a str>,
}

/// Writes `event` in client form at the end of `out`. `room_id` is left out in `/sync`, where the
/// place says it.
pub fn write(out: &mut String, event: &Event, room_id: Option<&str>, unsigned: Unsigned<'_>) {
    let spans = &event.spans;
    out.reserve(event.json.len());
    out.push_str("{\"content\":");
    out.push_str(event.part(spans.content));
    out.push_str(",\"event_id\":\"");
    out.push_str(event.event_id.as_str());
    out.push_str("\",\"origin_server_ts\":");
    out.push_str(event.part(spans.origin_server_ts));
    if let Some(room_id) = room_id {
        out.push_str(",\"room_id\":");
        out.push_str(&quoted(room_id));
    }
    if spans.redacts.1 > 0 {
        out.push_str(",\"redacts\":");
        out.push_str(event.part(spans.redacts));
    } else if event.kind() == "m.room.redaction" {
        write_redacts_of_content(out, event);
    }
    out.push_str(",\"sender\":");
    out.push_str(event.part(spans.sender));
    if event.is_state() {
        out.push_str(",\"state_key\":");
        out.push_str(event.part(spans.state_key));
    }
    out.push_str(",\"type\":");
    out.push_str(event.part(spans.kind));
    write_unsigned(out, unsigned);
    out.push('}');
}

/// "servers … SHOULD add a `redacts` property to the top level of m.room.redaction events … when
/// serving such events over the Client-Server API" ([room version 11]).
///
/// [room version 11]: https://spec.matrix.org/v1.19/rooms/v11/#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
fn write_redacts_of_content(out: &mut String, event: &Event) {
    #[derive(serde::Deserialize)]
    struct Content<'a> {
        #[serde(borrow)]
        redacts: Option<&'a serde_json::value::RawValue>,
    }
    let content = serde_json::from_str::<Content<'_>>(event.content());
    if let Some(redacts) = content.ok().and_then(|content| content.redacts) {
        out.push_str(",\"redacts\":");
        out.push_str(redacts.get());
    }
}

fn write_unsigned(out: &mut String, unsigned: Unsigned<'_>) {
    let mut separator = ",\"unsigned\":{";
    let mut field = |out: &mut String, name: &str, value: &str| {
        out.push_str(separator);
        separator = ",";
        out.push('"');
        out.push_str(name);
        out.push_str("\":");
        out.push_str(value);
    };
    if let Some(age_ms) = unsigned.age_ms {
        field(out, "age", &age_ms.to_string());
    }
    if let Some(relations) = unsigned.relations {
        field(out, "m.relations", relations);
    }
    if let Some(membership) = unsigned.membership {
        field(out, "membership", &quoted(membership.as_str()));
    }
    if let Some(content) = unsigned.prev_content {
        field(out, "prev_content", content);
    }
    if let Some(event) = unsigned.redacted_because {
        field(out, "redacted_because", event);
    }
    if let Some(event_id) = unsigned.replaces_state {
        field(out, "replaces_state", &quoted(event_id));
    }
    if let Some(txn_id) = unsigned.transaction_id {
        field(out, "transaction_id", &quoted(txn_id));
    }
    if separator == "," {
        out.push('}');
    }
}

/// Milliseconds since the event was sent, as far as its server's clock can be believed.
pub fn age_ms(event: &Event, now_ms: u64) -> Option<u64> {
    let sent_ms: u64 = event.part(event.spans.origin_server_ts).parse().ok()?;
    Some(now_ms.saturating_sub(sent_ms))
}

/// `text` as a JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
