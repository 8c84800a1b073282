//! Whether this server, as a room's policy server, vouches for an event: everything that
//! [`appliance_rules::policy::vouch`] must know is gathered here.

use appliance_model::ruma::room_version_rules::RoomVersionRules;
use appliance_model::ruma::signatures::sign_event;
use appliance_model::ruma::{CanonicalJsonObject, ServerName};
use appliance_model::{Error, Kind, Pdu};
use appliance_rules::Denial;
use appliance_rules::policy::{
    Content, Home, Policy, Said, Shown, Use, media_id_of, shown_uris, vouch,
};
use serde::Deserialize;

use super::signature_on;
use crate::media::shown_here;
use crate::peers::MediaMode;
use crate::rooms::Rooms;

/// What an event says of the file that it shows.
#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    msgtype: Option<String>,
    #[serde(default)]
    info: Option<Info>,
}

#[derive(Default, Deserialize)]
struct Info {
    #[serde(default)]
    mimetype: Option<String>,
}

impl Rooms {
    /// This server's signature on an event, as the policy server of a room that says `of_room` about files.
    ///
    /// # Errors
    ///
    /// [`Kind::NotRecommended`]: it does not vouch for it; that is on record.
    pub(super) async fn own_policy_signature(
        &self,
        event: &Pdu,
        of_room: Option<&Policy>,
        rules: &RoomVersionRules,
    ) -> Result<String, Error> {
        if let Err(denial) = self.judge_as_policy_server(event, of_room).await? {
            let error = self.house.ledger.refuse(denial).await;
            return Err(match error.kind {
                Kind::Forbidden => Error { kind: Kind::NotRecommended, ..error },
                _ => error,
            });
        }
        let key = self.policy_server_key().await?;
        let own = self.house.server_name.as_str();
        let mut object: CanonicalJsonObject =
            serde_json::from_slice(&event.json).map_err(Error::internal)?;
        sign_event(own, &*key, &mut object, &rules.redaction).map_err(Error::internal)?;
        let signature = signature_on(&object, &self.house.server_name);
        signature.ok_or_else(|| Error::internal("a signature that was made is not there"))
    }

    async fn judge_as_policy_server(
        &self,
        event: &Pdu,
        of_room: Option<&Policy>,
    ) -> Result<Result<(), Denial>, Error> {
        let house = &self.house;
        if house.options.policy.is_off {
            return Ok(Ok(()));
        }
        let (kind, is_state) = (event.kind.to_string(), event.state_key.is_some());
        let content = event.content.get();
        let is_ours = house.is_ours(&event.sender);
        let uris = shown_uris(&kind, is_state, content);
        let mut shows = Vec::new();
        for (uri, as_what) in uris.iter().flatten() {
            // "Avatars … are outside."
            if *as_what != Use::Kept {
                shows.extend(self.file_shown(uri, content).await?);
            }
        }
        let said = Said {
            sender: event.sender.as_str(),
            is_ours,
            kind: &kind,
            is_state,
            shows: uris.is_some().then_some(shows.as_slice()),
        };
        let policy = house.policy_in(None, of_room);
        Ok(vouch(&policy, house.policy.now().class_of(of_room), &said))
    }

    /// What is known of a file; nothing of one that should be here and is not: it shows nothing.
    async fn file_shown<'a>(
        &self,
        uri: &'a str,
        content: &str,
    ) -> Result<Option<Shown<'a>>, Error> {
        let own = self.house.server_name.as_str();
        if let Some(media_id) = media_id_of(uri, own) {
            let facts = shown_here(&self.house, media_id).await?;
            return Ok(facts.map(|(content, is_captured, may_tell_place)| {
                let home = Home::Here;
                Shown { uri, home, content, is_captured, may_tell_place }
            }));
        }
        let server = uri.strip_prefix("mxc://").and_then(|rest| rest.split('/').next());
        let home = match server.and_then(|server| ServerName::parse(server).ok()) {
            Some(server) => self.home_of(&server).await?,
            None => Home::Closed,
        };
        let named: Named = serde_json::from_str(content).unwrap_or_default();
        let mimetype = named.info.unwrap_or_default().mimetype.unwrap_or_default();
        let msgtype = named.msgtype.unwrap_or_default();
        // Whoever calls a picture a document shows a document: apps offer it for download.
        let is_film = msgtype == "m.video" || mimetype.starts_with("video/");
        let is_other = matches!(&*msgtype, "m.audio" | "m.file") && !mimetype.starts_with("image/");
        let content = if is_film || is_other { Content::Other } else { Content::Picture };
        let may_tell_place = is_film || content == Content::Picture;
        Ok(Some(Shown { uri, home, content, is_captured: false, may_tell_place }))
    }

    async fn home_of(&self, server: &ServerName) -> Result<Home, Error> {
        let mode = self.house.roll.media_mode(server);
        if !self.is_allowed(server) || mode == MediaMode::Deny {
            return Ok(Home::Closed);
        }
        let lends = match mode {
            MediaMode::Lease => self.line.servers()?.lends(server).await,
            _ => Ok(false),
        };
        match lends {
            Ok(true) => Ok(Home::OurKind),
            Ok(false) => Ok(Home::Other),
            // Who cannot be asked what it promises has promised nothing.
            Err(error) if error.kind == Kind::RemoteUnavailable => Ok(Home::Other),
            Err(error) => Err(error),
        }
    }
}
