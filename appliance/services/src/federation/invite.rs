//! Inviting a user of another server ([spec]): their server signs the invite before the room has it.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room

use appliance_ledger::Root;
use appliance_model::ruma::events::room::member::RoomMemberEventContent;
use appliance_model::ruma::events::{StateEventType, TimelineEventType};
use appliance_model::ruma::{CanonicalJsonObject, CanonicalJsonValue, RoomId, UserId};
use appliance_model::{Caller, Error, Kind};
use appliance_rules::event_auth::may_send;
use appliance_rules::inbound::Standing;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::check::formed;
use super::fetch::{Errand, Source};
use super::line::Ask;
use super::receive::Inflow;
use super::resident::turn_of;
use crate::rooms::Rooms;
use crate::rooms::build::{Draft, content_from};
use crate::rooms::membership::check_inside;

impl Rooms {
    /// Invites a user of another server; returns when their server has the invite and it would survive a
    /// power cut here.
    ///
    /// # Errors
    ///
    /// * [`Kind::Forbidden`]: this server has nothing to do with theirs, or the room's rules refuse it,
    ///   or their server does.
    /// * [`Kind::RemoteUnavailable`]: their server cannot be reached; nobody was invited.
    pub(crate) async fn invite_elsewhere(
        &self,
        caller: &Caller,
        room_id: &RoomId,
        target: &UserId,
        content: &RoomMemberEventContent,
    ) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Signed {
            event: Box<RawValue>,
        }
        let server = target.server_name();
        if !self.line.allows(server) {
            let unknown = format!("This server does not exchange rooms with {server}.");
            return Err(Error::forbidden(unknown));
        }
        if !self.house.roll.may_be_invited(server) {
            let message = format!("People of {server} may not be invited from here.");
            return Err(Error::forbidden(message));
        }
        let (_, version) = self.known(room_id).await?;
        let open = self.enter(room_id).await?;
        check_inside(&open, &caller.user_id).await?;
        self.check_shared(open.room, server).await?;
        let kind = TimelineEventType::RoomMember;
        let sender = caller.user_id.clone();
        let draft = Draft::state(sender, kind, target.as_str(), content_from(content)?);
        let draft = open.dated(draft).await?;
        let (named, prev_events, auth_events) = open.references(&draft).await?;
        let place = open.place(&prev_events, &auth_events);
        let pdu = draft.sign(&self.house, &open.rules, &place)?;
        if let Err(denial) = may_send(&pdu, &named, &open.rules.authorization) {
            return Err(self.house.ledger.refuse(denial).await);
        }
        let pdu = open.recommended(pdu, &named).await?;
        let (room, root, rules) = (open.room, Root(open.head.state_root), open.rules.clone());
        // Nobody waits at the room's door for the other server.
        drop(open);
        let mut face = self.face_pdus(room, root).await?;
        let kind = StateEventType::RoomMember;
        let inviter = self.state_at(room, root, &kind, caller.user_id.as_str()).await?;
        face.extend(inviter.map(|event| super::resident::json_of(&event).to_owned()));
        let event = String::from_utf8_lossy(&pdu.json).into_owned();
        let body = format!(
            r#"{{"event":{event},"invite_room_state":[{}],"room_version":"{version}"}}"#,
            face.join(",")
        );
        let (asked, event_id) = (room_id.to_owned(), pdu.event_id.clone());
        let signed: Signed =
            self.ask(server, Ask::Invite { room_id: asked, event_id, body }).await?;

        // Of what came back only their signature is taken.
        let theirs = formed(&signed.event, &rules).map_err(|_| unsigned())?;
        let mut ours: CanonicalJsonObject =
            serde_json::from_slice(&pdu.json).map_err(Error::internal)?;
        if theirs.event_id != pdu.event_id || !add_signature(&mut ours, theirs.object, server) {
            return Err(unsigned());
        }
        let json = serde_json::to_string(&ours).map_err(Error::internal)?;
        let raw = RawValue::from_string(json).map_err(Error::internal)?;
        let pdu = self.checked(&raw, room_id, &rules).await?.map_err(Error::forbidden)?;
        let own = self.house.server_name.clone();
        let _turn = self.receiving.enter(turn_of(self, room_id, &own)).await;
        let errand = Errand::begin(&self.house);
        let mut inflow = Inflow::new(self, Source::new(&own, room_id, &rules, &errand));
        let standing = inflow.live(pdu).await?;
        inflow.flush().await?;
        match standing {
            Standing::Accepted => Ok(()),
            Standing::SoftFailed(why) | Standing::Rejected(why) => Err(Error::forbidden(why)),
        }
    }
}

fn unsigned() -> Error {
    Error::new(Kind::RemoteUnavailable, "The other server has not signed the invite.")
}

fn add_signature(
    ours: &mut CanonicalJsonObject,
    mut theirs: CanonicalJsonObject,
    server: &appliance_model::ruma::ServerName,
) -> bool {
    let signatures = match theirs.remove("signatures") {
        Some(CanonicalJsonValue::Object(mut signatures)) => signatures.remove(server.as_str()),
        _ => None,
    };
    match (ours.get_mut("signatures"), signatures) {
        (Some(CanonicalJsonValue::Object(all)), Some(CanonicalJsonValue::Object(theirs))) => {
            // It may have signed already, as the room's policy server.
            let empty = CanonicalJsonValue::Object(CanonicalJsonObject::new());
            match all.entry(server.to_string()).or_insert(empty) {
                CanonicalJsonValue::Object(of_server) => of_server.extend(theirs),
                _ => return false,
            }
            true
        }
        _ => false,
    }
}
