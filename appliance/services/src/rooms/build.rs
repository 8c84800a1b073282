//! Building a local user's event: references, hashes, signature, ID.

use appliance_model::ruma::events::TimelineEventType;
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::serde::Raw;
use appliance_model::ruma::signatures::{hash_and_sign_event, reference_hash};
use appliance_model::ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, Int, MilliSecondsSinceUnixEpoch,
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UInt,
};
use appliance_model::{EVENT_BYTES_MAX, Error, Pdu};
use bytes::Bytes;

use crate::house::House;

/// "`sender`, `type` and `state_key` MUST NOT exceed 255 bytes" ([size limits]).
///
/// [size limits]: https://spec.matrix.org/v1.19/client-server-api/#size-limits
const NAME_BYTES_MAX: usize = 255;

/// A member event is not dated further ahead than this, whatever it replaces says.
const AHEAD_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// What someone wants to say.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who.
    pub sender: OwnedUserId,
    /// The event type.
    pub kind: TimelineEventType,
    /// The state key, for state events.
    pub state_key: Option<String>,
    /// The content.
    pub content: CanonicalJsonObject,
    /// When, if not now (what application services say; member events, see [`Draft::after`]).
    pub at: Option<MilliSecondsSinceUnixEpoch>,
}

/// Where an event hangs in the graph.
pub(crate) struct Place<'a> {
    pub room_id: Option<&'a RoomId>,
    pub prev_events: &'a [OwnedEventId],
    pub auth_events: &'a [OwnedEventId],
    pub depth: u64,
}

impl Draft {
    /// A message.
    pub fn message(
        sender: OwnedUserId,
        kind: TimelineEventType,
        content: CanonicalJsonObject,
    ) -> Self {
        Self { sender, kind, state_key: None, content, at: None }
    }

    /// A state event.
    pub fn state(
        sender: OwnedUserId,
        kind: impl Into<TimelineEventType>,
        state_key: impl Into<String>,
        content: CanonicalJsonObject,
    ) -> Self {
        Self { sender, kind: kind.into(), state_key: Some(state_key.into()), content, at: None }
    }

    /// The same, dated after the member event that it takes the place of. Where branches of a room meet, of two
    /// member events the one with the later `origin_server_ts` wins, whichever was built on the other: after a
    /// clock was set back, who left would still be in, and who came back be out.
    pub(crate) fn after(self, replaced: &Pdu, house: &House) -> Self {
        self.after_ms(replaced.origin_server_ts.0.into(), house)
    }

    /// The same for one of which only its date is known, in milliseconds since the Unix epoch.
    pub(crate) fn after_ms(mut self, replaced_ms: u64, house: &House) -> Self {
        let now_ms = house.clock.now_ms();
        let said_ms = self.at.map_or(now_ms, |at| at.0.into());
        let next_ms = replaced_ms.saturating_add(1);
        let is_ahead = next_ms > said_ms && next_ms.saturating_sub(now_ms) <= AHEAD_MS_MAX;
        if self.kind == TimelineEventType::RoomMember && is_ahead {
            self.at = Some(MilliSecondsSinceUnixEpoch(UInt::new_saturating(next_ms)));
        }
        self
    }

    /// Makes the signed event.
    ///
    /// # Errors
    ///
    /// [`appliance_model::Kind::TooLarge`] beyond the size limits.
    pub(crate) fn sign(
        self,
        house: &House,
        rules: &RoomVersionRules,
        place: &Place<'_>,
    ) -> Result<Pdu, Error> {
        let object = self.object(house, rules, place)?;
        finish(object, house, rules, place.room_id)
    }

    /// The event before it is hashed and signed.
    pub(crate) fn object(
        self,
        house: &House,
        rules: &RoomVersionRules,
        place: &Place<'_>,
    ) -> Result<CanonicalJsonObject, Error> {
        self.check_names()?;
        let at = self.at.unwrap_or_else(|| house.clock.now());
        let ids = |ids: &[OwnedEventId]| {
            CanonicalJsonValue::Array(ids.iter().map(|id| id.to_string().into()).collect())
        };
        let mut object = CanonicalJsonObject::from([
            ("auth_events".to_owned(), ids(place.auth_events)),
            ("prev_events".to_owned(), ids(place.prev_events)),
            ("depth".to_owned(), Int::new_saturating(place.depth.cast_signed()).into()),
            ("origin_server_ts".to_owned(), CanonicalJsonValue::Integer(at.0.into())),
            ("sender".to_owned(), self.sender.to_string().into()),
            ("type".to_owned(), self.kind.to_string().into()),
        ]);
        // Since v12 the create event has no room ID: the room's ID is its hash.
        if let Some(room_id) = place.room_id {
            object.insert("room_id".to_owned(), room_id.to_string().into());
        }
        if let Some(state_key) = self.state_key {
            object.insert("state_key".to_owned(), state_key.into());
        }
        let mut content = self.content;
        // Before v11 `redacts` lives at the top level of the event, wherever the client put it.
        if self.kind == TimelineEventType::RoomRedaction && !rules.redaction.content_field_redacts {
            object.extend(content.remove_entry("redacts"));
        }
        object.insert("content".to_owned(), content.into());
        Ok(object)
    }

    fn check_names(&self) -> Result<(), Error> {
        let state_key = self.state_key.as_deref().unwrap_or_default();
        if self.kind.to_string().len() > NAME_BYTES_MAX || state_key.len() > NAME_BYTES_MAX {
            return Err(Error::too_large("The event type or state key is longer than 255 bytes."));
        }
        Ok(())
    }
}

fn finish(
    mut object: CanonicalJsonObject,
    house: &House,
    rules: &RoomVersionRules,
    room_id: Option<&RoomId>,
) -> Result<Pdu, Error> {
    let too_large = || Error::too_large("The event is larger than 65536 bytes.");
    let server = house.server_name.as_str();
    hash_and_sign_event(server, &house.signing_key, &mut object, &rules.redaction)
        .map_err(|_| too_large())?;
    let hash = reference_hash(&object, rules).map_err(|_| too_large())?;
    let event_id = EventId::parse(format!("${hash}")).map_err(Error::internal)?;
    let room_id = match room_id {
        Some(room_id) => room_id.to_owned(),
        None => OwnedRoomId::try_from(format!("!{hash}")).map_err(Error::internal)?,
    };
    let json = serde_json::to_vec(&object).map_err(Error::internal)?;
    if json.len() > EVENT_BYTES_MAX {
        return Err(too_large());
    }
    Pdu::parse(event_id, room_id, Bytes::from(json), rules.redaction.content_field_redacts)
        .map_err(|error| Error::bad_json(error.to_string()))
}

/// Content as clients send it: an object, no floats, integers within ±2^53.
///
/// # Errors
///
/// [`appliance_model::Kind::BadJson`] otherwise: "Floats … are not allowed" in canonical JSON.
pub fn content_of<T>(raw: &Raw<T>) -> Result<CanonicalJsonObject, Error> {
    serde_json::from_str(raw.json().get()).map_err(|_| {
        Error::bad_json(
            "The content must be a JSON object whose numbers are integers between -2^53 and 2^53.",
        )
    })
}

/// Content from one of Ruma's types.
///
/// # Errors
///
/// Never for the types Ruma defines.
pub fn content_from(content: &impl serde::Serialize) -> Result<CanonicalJsonObject, Error> {
    match appliance_model::ruma::canonical_json::to_canonical_value(content) {
        Ok(CanonicalJsonValue::Object(object)) => Ok(object),
        Ok(_) => Err(Error::bad_json("The content must be a JSON object.")),
        Err(error) => Err(Error::bad_json(error.to_string())),
    }
}
