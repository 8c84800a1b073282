//! `POST /_matrix/policy/v1/sign` ([spec]): another server asks whether this one, as the policy server of a
//! room, recommends an event.
//!
//! The room is not entered: whoever asks holds up nobody, and two servers that ask each other do not wait for
//! each other.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#post_matrixpolicyv1sign

use appliance_model::ruma::{CanonicalJsonObject, ServerName};
use appliance_model::{Error, Kind};
use serde_json::json;
use serde_json::value::RawValue;

use super::{KEY_ID, POLICY_SERVER_TYPE, is_exempt};
use crate::federation::{formed, room_named_in};
use crate::limits::{Limit, Whose};
use crate::policy::of_room;
use crate::rooms::{Rooms, rules_of};

impl Rooms {
    /// This server's signature on an event, as the JSON that `origin` is answered.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotFound`]: this server is not that room's policy server, or `origin` is not in it.
    /// * [`Kind::Forbidden`]: the room's access list keeps `origin` out.
    /// * [`Kind::BadJson`]: the event has not the form of its room's version.
    /// * [`Kind::NotRecommended`]: this server does not vouch for it.
    /// * [`Kind::Limited`]: who said it says more than our own people may.
    pub async fn sign_as_policy_server(
        &self,
        origin: &ServerName,
        event: &RawValue,
    ) -> Result<String, Error> {
        let not_ours = || Error::not_found("This server is not the policy server of that room.");
        let object: Result<CanonicalJsonObject, _> = serde_json::from_str(event.get());
        if object.is_err() {
            return Err(Error::bad_json("The event is no canonical JSON object."));
        }
        let room_id = room_named_in(event.get())
            .ok_or_else(|| Error::bad_json("The event has no `room_id`."))?;
        let (room, version) = self.known(&room_id).await.map_err(|error| match error.kind {
            Kind::NotFound => not_ours(),
            _ => error,
        })?;
        let named = self.policy_server_of(room, origin).await?;
        let Some((_, true)) = named.filter(|(named, _)| named.via == self.house.server_name) else {
            return Err(not_ours());
        };
        self.check_admitted(origin, &room_id).await?;
        let rules = rules_of(&version)?;
        let formed = formed(event, &rules).map_err(Error::bad_json)?;
        let refused = |why: String| Error::new(Kind::NotRecommended, why);
        let verified = self.verified_whole_or_part(formed, &rules).await?;
        let (pdu, is_whole) = verified.map_err(refused)?;
        // A signature covers what a redaction leaves: given for that alone, it would be good for anything
        // whose hash is in it.
        if !is_whole {
            return Err(refused("Only what is seen whole is recommended.".to_owned()));
        }
        // "MUST NOT be called for events which have a type of `m.room.policy` and an empty string `state_key`."
        if is_exempt(&pdu) {
            return Err(Error::bad_json(format!("{POLICY_SERVER_TYPE} is not signed.")));
        }
        // Servers that ask again for what is here cost nobody anything.
        if self.house.ledger.event_number(&pdu.event_id).await?.is_none() {
            let sender = self.house.ledger.digest(&[b"said", pdu.sender.as_bytes()]);
            self.limits.take(Limit::Message, Whose::Name(sender))?;
        }
        let said = of_room(self, room).await?;
        let signature = self.own_policy_signature(&pdu, said.as_ref(), &rules).await?;
        let own = self.house.server_name.as_str();
        Ok(json!({ own: { KEY_ID: signature } }).to_string())
    }
}
