//! Orders about the clinical policy: what holds, who may what, which device has what.

use appliance_model::SessionClass;
use appliance_model::ruma::{MxcUri, OwnedMxcUri, OwnedRoomId, OwnedUserId, UserId};
use appliance_services::media::copies::Copy;
use appliance_services::media::erase::Which;
use appliance_services::policy::Question;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Admin, Quota, Reason, Refusal};

/// About whom, and where. What is left out is taken for an ordinary user, an ordinary session, no
/// room.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PolicyQuestion {
    /// The user.
    pub user_id: Option<OwnedUserId>,
    /// One of their devices.
    pub device_id: Option<String>,
    /// A class of sessions, in place of that of a device.
    pub class: Option<String>,
    /// The room.
    pub room_id: Option<OwnedRoomId>,
    /// A file: `mxc://server/id`.
    pub uri: Option<OwnedMxcUri>,
}

impl Admin {
    pub(super) fn show_policy(&self) -> Value {
        self.house.services.policy.show()
    }

    pub(super) async fn set_policy(&self, pack: &Value, by: &str) -> Result<Value, Refusal> {
        self.house.services.policy.set(pack, by).await?;
        Ok(self.show_policy())
    }

    pub(super) async fn explain_policy(
        &self,
        question: &PolicyQuestion,
        pack: Option<&Value>,
    ) -> Result<Value, Refusal> {
        let class = question.class.as_deref().map(class_of).transpose()?;
        let uri = question.uri.as_deref();
        let question = Question {
            user_id: question.user_id.as_deref(),
            device_id: question.device_id.as_deref(),
            class,
            room_id: question.room_id.as_deref(),
        };
        let desk = &self.house.services.policy;
        let mut answer = match pack {
            Some(pack) => desk.simulate(pack, &question).await?,
            None => desk.explain(&question).await?,
        };
        if let Some(uri) = uri {
            // What would hold for it under another policy is not known before its rooms are asked again.
            if pack.is_some() {
                return Err(refused("a file can be explained, and not simulated"));
            }
            let said = answer["session_class"].as_str().unwrap_or_default();
            let whom = (question.user_id, class_of(said)?);
            let media = &self.house.services.media;
            answer["photo"] = media.explain(self.own_media(uri)?, whom).await?;
        }
        Ok(answer)
    }

    /// The ID of a file of this server.
    fn own_media<'a>(&self, uri: &'a MxcUri) -> Result<&'a str, Refusal> {
        let parts = uri.parts().map_err(|_| refused("this is no mxc:// URI"))?;
        match parts.0.as_str() == self.house.services.house.server_name.as_str() {
            true => Ok(parts.1),
            false => Err(refused("this file is another server's")),
        }
    }

    pub(super) async fn enrol(
        &self,
        class: &str,
        user_id: Option<&UserId>,
        valid_ms: u64,
        by: &str,
    ) -> Result<Value, Refusal> {
        let accounts = &self.house.services.accounts;
        let code = accounts.make_enrolment_code(class_of(class)?, user_id, valid_ms, by).await?;
        Ok(json!({ "code": code, "class": class, "user_id": user_id, "valid_ms": valid_ms }))
    }

    pub(super) async fn where_is_media(&self, uri: &str) -> Result<Value, Refusal> {
        let services = &self.house.services;
        let found = services.media.whereabouts(self.own_media(uri.into())?).await?;
        let erasure = found.erasure.map(|erasure| {
            json!({
                "reason": erasure.reason,
                "refused_since_ms": erasure.refused_ms,
                "erased_ms": erasure.erased_ms,
                "content_digest": erasure.content.map(|digest| hex(&digest)),
            })
        });
        let copies: Vec<_> = found.copies.iter().map(shown).collect();
        Ok(json!({ "uri": found.uri, "erasure": erasure, "copies": copies }))
    }

    pub(super) async fn erase_media(&self, which: Which, by: &str) -> Result<Value, Refusal> {
        let receipt = self.house.services.media.erase(&which, by).await?;
        Ok(json!({
            "receipt": receipt.receipt,
            "at_ms": receipt.at_ms,
            "files": receipt.uris.len(),
            "uris": receipt.uris,
        }))
    }

    pub(super) async fn media_quota(
        &self,
        user_id: &UserId,
        quota: Option<Quota>,
        by: &str,
    ) -> Result<Value, Refusal> {
        let services = &self.house.services;
        let usage = match quota {
            Some(Quota::General) => services.media.set_quota(user_id, None, by).await?,
            Some(Quota::Bytes(bytes)) => services.media.set_quota(user_id, Some(bytes), by).await?,
            None => {
                let user = services.house.ledger.user(user_id).await?;
                let user = user.ok_or_else(|| refused("there is no such user"))?;
                services.media.usage(user).await?
            }
        };
        Ok(json!({
            "user_id": user_id,
            "files": usage.files,
            "bytes": usage.bytes,
            "quota_bytes": usage.quota_bytes,
        }))
    }

    pub(super) async fn purging_media(&self) -> Result<Value, Refusal> {
        let (purging, more) = self.house.services.media.purging().await?;
        let purging: Vec<_> = purging
            .iter()
            .map(|one| json!({ "uri": one.uri, "reason": one.reason, "since_ms": one.since_ms }))
            .collect();
        Ok(json!({ "purging": purging, "more": more }))
    }

    pub(super) async fn unconfirmed_erasures(&self) -> Result<Value, Refusal> {
        let (unconfirmed, more) = self.house.services.media.unconfirmed().await?;
        let unconfirmed = unconfirmed.iter().map(|one| {
            json!({
                "uri": one.uri,
                "server_name": one.server_name,
                "since_ms": one.since_ms,
                "times": one.times,
            })
        });
        Ok(json!({ "unconfirmed": unconfirmed.collect::<Vec<_>>(), "more": more }))
    }

    pub(super) async fn device_lost(
        &self,
        user_id: &UserId,
        device_id: &str,
        by: &str,
    ) -> Result<Value, Refusal> {
        let services = &self.house.services;
        let (device, seen_ms) = services.accounts.device_lost(user_id, device_id, by).await?;
        let may_hold = services.media.given_to(device).await?;
        Ok(json!({
            "user_id": user_id,
            "device_id": device_id,
            "last_seen_ms": seen_ms,
            "may_hold": may_hold,
        }))
    }
}

fn shown(copy: &Copy) -> Value {
    json!({
        "user_id": copy.user_id,
        "device_id": copy.device_id,
        "forms": copy.forms,
        "at_ms": copy.at_ms,
        "left": copy.left.as_str(),
        "last_seen_ms": copy.seen_ms,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn class_of(word: &str) -> Result<SessionClass, Refusal> {
    SessionClass::parse(word).ok_or_else(|| {
        let words = SessionClass::ALL.map(SessionClass::as_str).join(", ");
        refused(&format!("\"{word}\" is no class of sessions; there are {words}"))
    })
}

fn refused(message: &str) -> Refusal {
    Refusal { reason: Reason::Refused, message: message.to_owned() }
}
