//! Asking a room's policy server to sign an event ([spec]).
//!
//! For an event of one of ours this is done inside the room, so that what was read there stays true: whoever
//! writes in the room meanwhile waits as long as the policy server takes, ten seconds at most; one that did
//! not answer is not waited for again for five. Events of others are asked for outside.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#asking-for-a-policy-server-signature-on-an-event

use std::collections::BTreeMap;

use appliance_model::ruma::events::StateEventType;
use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName};
use appliance_model::{EVENT_BYTES_MAX, Error, Kind, Pdu};
use appliance_rules::event_auth::{NamedState, may_send};
use appliance_rules::policy::{POLICY_TYPE, Policy};
use bytes::Bytes;
use quick_cache::sync::Cache;

use super::{KEY_ID, PolicyServer};
use crate::federation::Ask;
use crate::policy::{of_room, room_policy};
use crate::rooms::Rooms;
use crate::rooms::room::OpenRoom;

/// Who did not answer is asked again after this: people who press the button again do not queue up.
const AWAY_MS: u64 = 5_000;
/// Policy servers remembered that did not answer; about 60 bytes each.
const AWAY_MAX: usize = 256;

/// Policy servers that did not answer, and until when they are not asked: milliseconds since the Unix epoch.
pub(crate) struct Away(Cache<OwnedServerName, u64>);

impl Default for Away {
    fn default() -> Self {
        Self(Cache::new(AWAY_MAX))
    }
}

impl OpenRoom<'_> {
    /// An event of one of ours, with the signature of the room's policy server, if it has one.
    ///
    /// # Errors
    ///
    /// * [`Kind::NotRecommended`]: the policy server refuses it. "If the Policy Server returned an error,
    ///   that error SHOULD be provided to the client verbatim."
    /// * [`Kind::Limited`]: it wants to be asked later.
    /// * [`Kind::RemoteUnavailable`]: it cannot be asked.
    pub(crate) async fn recommended(&self, event: Pdu, named: &NamedState) -> Result<Pdu, Error> {
        let Some(server) = self.unsigned_by(&event).await? else { return Ok(event) };
        // What the room's rules refuse is nobody else's business.
        if may_send(&event, named, &self.rules.authorization).is_err() {
            return Ok(event);
        }
        let said = self.state(&StateEventType::from(POLICY_TYPE), "").await?;
        let said = said.map(|event| room_policy(event.content.get()));
        self.rooms.sign_by(&server, event, (said.as_ref(), &self.rules)).await
    }
}

impl Rooms {
    /// An event of another server that should have the signature of its room's policy server and has not:
    /// "the homeserver SHOULD ask for a new signature".
    ///
    /// # Errors
    ///
    /// As [`OpenRoom::recommended`].
    pub(crate) async fn sign_by_policy_server(
        &self,
        server: &PolicyServer,
        event: Pdu,
        rules: &RoomVersionRules,
    ) -> Result<Pdu, Error> {
        let (room, _) = self.known(&event.room_id).await?;
        let said = of_room(self, room).await?;
        self.sign_by(server, event, (said.as_ref(), rules)).await
    }

    async fn sign_by(
        &self,
        server: &PolicyServer,
        event: Pdu,
        (said, rules): (Option<&Policy>, &RoomVersionRules),
    ) -> Result<Pdu, Error> {
        let signature = match server.via == self.house.server_name {
            true => self.own_policy_signature(&event, said, rules).await?,
            false => self.ask_policy_server(server, &event).await?,
        };
        let mut object: CanonicalJsonObject =
            serde_json::from_slice(&event.json).map_err(Error::internal)?;
        add(&mut object, server, signature);
        if !server.has_signed(&object, rules) {
            return Err(Error::new(
                Kind::RemoteUnavailable,
                format!(
                    "{} looks after this room, and signs with another key than the room names. Whoever \
                     may change the room's settings has to name the new key.",
                    server.via
                ),
            ));
        }
        let json = serde_json::to_vec(&object).map_err(Error::internal)?;
        if json.len() > EVENT_BYTES_MAX {
            return Err(Error::too_large("The event is larger than 65536 bytes."));
        }
        let (event_id, room_id) = (event.event_id.clone(), event.room_id.clone());
        let in_content = rules.redaction.content_field_redacts;
        Pdu::parse(event_id, room_id, Bytes::from(json), in_content).map_err(Error::internal)
    }

    async fn ask_policy_server(&self, server: &PolicyServer, event: &Pdu) -> Result<String, Error> {
        let via = &server.via;
        let now_ms = self.house.clock.now_ms();
        let is_away = self.policy_away.0.get(via).is_some_and(|until_ms| {
            // A clock that was set back does not prolong it.
            (1..=AWAY_MS).contains(&until_ms.saturating_sub(now_ms))
        });
        if is_away || !self.line.allows(via) {
            return Err(away(server));
        }
        let json = String::from_utf8(event.json.to_vec()).map_err(Error::internal)?;
        type Signatures = BTreeMap<String, BTreeMap<String, String>>;
        let asked = self.ask::<Signatures>(via, Ask::Sign { event: json }).await;
        match asked {
            Ok(mut signed) => {
                let signed = signed.get_mut(via.as_str()).and_then(|keys| keys.remove(KEY_ID));
                signed.ok_or_else(|| {
                    // Those of before v1.18 said no by saying nothing.
                    Error::new(Kind::NotRecommended, format!("{via} does not recommend this."))
                })
            }
            Err(error) if error.kind == Kind::RemoteUnavailable => {
                let until_ms = self.house.clock.now_ms().saturating_add(AWAY_MS);
                self.policy_away.0.insert(via.clone(), until_ms);
                if let Some(times) = self.alarm("policy_server.away", via.as_str()) {
                    tracing::warn!(kind = "policy_server.away", server = %via, %error, times,
                        room.id = %event.room_id,
                        "a room's policy server cannot be asked: nothing can be said there now");
                }
                Err(away(server))
            }
            Err(error) => Err(error),
        }
    }
}

fn away(server: &PolicyServer) -> Error {
    let message = format!(
        "{}, which looks after this room, cannot be asked now, so nothing can be said here. Try again \
         soon, or have somebody who may change the room's settings take its policy server off.",
        server.via
    );
    Error::new(Kind::RemoteUnavailable, message)
}

/// "Those existing signatures might not be returned by the policy server, but should be retained".
fn add(event: &mut CanonicalJsonObject, server: &PolicyServer, signature: String) {
    let object = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    let all = event.entry("signatures".to_owned()).or_insert_with(object);
    let CanonicalJsonValue::Object(all) = all else { return };
    let of_server = all.entry(server.via.to_string()).or_insert_with(object);
    if let CanonicalJsonValue::Object(of_server) = of_server {
        of_server.insert(KEY_ID.to_owned(), CanonicalJsonValue::String(signature));
    }
}
