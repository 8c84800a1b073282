//! What those who answer for the clinical policy ask and order: the policy of the house, who holds what, and the
//! end of photos. The command line (`wardstone policy`, `media`, `enrol`, `device`) gets the same answers.
//!
//! | Request below `/_wardstone/admin/v1` | What it does |
//! |---|---|
//! | `GET`, `PUT /policy` | the policy of the house: shows it, sets another (a policy pack in JSON) |
//! | `POST /policy/explain` | what holds for somebody somewhere, and who said so ([`PolicyQuestion`]) |
//! | `POST /policy/simulate` | the same under another policy: `{"pack": …, "question": …}` |
//! | `GET /media/{server}/{id}/copies` | which devices were given a file, and what may be left of it there |
//! | `POST /media/erase` | erases files as one act, with a receipt ([`Which`]) |
//! | `GET /media/purging` | files whose erasure is not finished |
//! | `GET /media/unconfirmed` | servers that have not confirmed that a file is erased there |
//! | `POST /enrolment_codes` | a code that raises a session's class |
//! | `POST /users/{user}/devices/{device}/lost` | ends a lost device, and says what it may hold |

use appliance_model::ruma::{MxcUri, OwnedMxcUri, OwnedRoomId, OwnedUserId, UserId};
use appliance_model::{Error, SessionClass};
use appliance_services::Services;
use appliance_services::media::copies::Copy;
use appliance_services::media::erase::Which;
use appliance_services::policy::Question;
use axum::response::Response;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Desk, answer, user_at};
use crate::json::read_json;
use crate::route::{RawRequest, Visit};

pub(super) fn add(desk: &mut Desk<'_>) {
    use Method as M;
    let path = "/_wardstone/admin/v1/policy";
    desk.serve(M::GET, path, "admin.policy_read", read_policy);
    desk.serve(M::PUT, path, "admin.policy_put", put_policy);
    let path = "/_wardstone/admin/v1/policy/explain";
    desk.serve(M::POST, path, "admin.policy_explained", explain_policy);
    let path = "/_wardstone/admin/v1/policy/simulate";
    desk.serve(M::POST, path, "admin.policy_simulated", simulate_policy);
    let path = "/_wardstone/admin/v1/media/{server_name}/{media_id}/copies";
    desk.serve(M::GET, path, "admin.copies_listed", list_copies);
    let path = "/_wardstone/admin/v1/media/erase";
    desk.serve(M::POST, path, "admin.media_deleted", erase_media);
    let path = "/_wardstone/admin/v1/media/purging";
    desk.serve(M::GET, path, "admin.purging_listed", list_purging);
    let path = "/_wardstone/admin/v1/media/unconfirmed";
    desk.serve(M::GET, path, "admin.unconfirmed_listed", list_unconfirmed);
    let path = "/_wardstone/admin/v1/enrolment_codes";
    desk.serve(M::POST, path, "admin.enrolment_code_new", make_code);
    let path = "/_wardstone/admin/v1/users/{user_id}/devices/{device_id}/lost";
    desk.serve(M::POST, path, "admin.device_lost", lose_device);
}

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

/// What holds, and which scope said so; under another policy of the house (`pack`), if one is given.
///
/// # Errors
///
/// [`appliance_model::Kind::InvalidParam`] for a class or a file that cannot be, and for a pack with a mistake;
/// [`appliance_model::Kind::NotFound`] for a user, device, room or file that is not here.
pub async fn explain(
    services: &Services,
    asked: &PolicyQuestion,
    pack: Option<&Value>,
) -> Result<Value, Error> {
    let class = asked.class.as_deref().map(class_of).transpose()?;
    let question = Question {
        user_id: asked.user_id.as_deref(),
        device_id: asked.device_id.as_deref(),
        class,
        room_id: asked.room_id.as_deref(),
    };
    let mut answer = match pack {
        Some(pack) => services.policy.simulate(pack, &question).await?,
        None => services.policy.explain(&question).await?,
    };
    if let Some(uri) = asked.uri.as_deref() {
        // What would hold for it under another policy is not known before its rooms are asked again.
        if pack.is_some() {
            return Err(Error::invalid_param("A file can be explained, and not simulated."));
        }
        let said = answer["session_class"].as_str().unwrap_or_default();
        let whom = (question.user_id, class_of(said)?);
        answer["photo"] = services.media.explain(own_media(services, uri)?, whom).await?;
    }
    Ok(answer)
}

/// Which devices were given a file, in which forms, and what may be left of it; and how it ended.
///
/// # Errors
///
/// [`appliance_model::Kind::InvalidParam`] for another server's file, [`appliance_model::Kind::NotFound`] if there
/// never was one.
pub async fn copies(services: &Services, uri: &MxcUri) -> Result<Value, Error> {
    let found = services.media.whereabouts(own_media(services, uri)?).await?;
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

/// Erases files as one act.
///
/// # Errors
///
/// As [`appliance_services::media::Media::erase`].
pub async fn erase(services: &Services, which: &Which, by: &str) -> Result<Value, Error> {
    let receipt = services.media.erase(which, by).await?;
    Ok(json!({
        "receipt": receipt.receipt,
        "at_ms": receipt.at_ms,
        "files": receipt.uris.len(),
        "events": receipt.events,
        "uris": receipt.uris,
    }))
}

/// Files whose erasure is not finished.
///
/// # Errors
///
/// If the store fails.
pub async fn purging(services: &Services) -> Result<Value, Error> {
    let (purging, more) = services.media.purging().await?;
    let purging: Vec<_> = purging
        .iter()
        .map(|one| json!({ "uri": one.uri, "reason": one.reason, "since_ms": one.since_ms }))
        .collect();
    Ok(json!({ "purging": purging, "more": more }))
}

/// The servers that have not confirmed that a file is erased there.
///
/// # Errors
///
/// If the store fails.
pub async fn unconfirmed(services: &Services) -> Result<Value, Error> {
    let (unconfirmed, more) = services.media.unconfirmed().await?;
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

/// A code that raises a session to a class, for one user or whoever has it.
///
/// # Errors
///
/// [`appliance_model::Kind::InvalidParam`] for a class or a time that cannot be,
/// [`appliance_model::Kind::NotFound`] if there is no such user.
pub async fn enrol(
    services: &Services,
    class: &str,
    user_id: Option<&UserId>,
    (valid_ms, by): (u64, &str),
) -> Result<Value, Error> {
    let accounts = &services.accounts;
    let code = accounts.make_enrolment_code(class_of(class)?, user_id, valid_ms, by).await?;
    Ok(json!({ "code": code, "class": class, "user_id": user_id, "valid_ms": valid_ms }))
}

/// A device is lost: ends it, and says what it may hold.
///
/// # Errors
///
/// [`appliance_model::Kind::NotFound`] if there is no such user or device.
pub async fn device_lost(
    services: &Services,
    user_id: &UserId,
    device_id: &str,
    by: &str,
) -> Result<Value, Error> {
    let (device, seen_ms) = services.accounts.device_lost(user_id, device_id, by).await?;
    let may_hold = services.media.given_to(device).await?;
    Ok(json!({
        "user_id": user_id,
        "device_id": device_id,
        "last_seen_ms": seen_ms,
        "may_hold": may_hold,
    }))
}

/// The ID of a file of this server.
fn own_media<'a>(services: &Services, uri: &'a MxcUri) -> Result<&'a str, Error> {
    let parts = uri.parts().map_err(|_| Error::invalid_param("This is no mxc:// URI."))?;
    match parts.0 == services.house.server_name {
        true => Ok(parts.1),
        false => Err(Error::invalid_param("This file is another server's.")),
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

fn class_of(word: &str) -> Result<SessionClass, Error> {
    SessionClass::parse(word).ok_or_else(|| {
        let words = SessionClass::ALL.map(SessionClass::as_str).join(", ");
        Error::invalid_param(format!("\"{word}\" is no class of sessions; there are {words}."))
    })
}

async fn read_policy(visit: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&visit.services.policy.show())
}

async fn put_policy(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let pack: Value = read_json(&mut visit.request).await?;
    let policy = &visit.services.policy;
    policy.set(&pack, visit.caller()?.user_id.as_str()).await?;
    answer(&policy.show())
}

async fn explain_policy(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let question: PolicyQuestion = read_json(&mut visit.request).await?;
    answer(&explain(&visit.services, &question, None).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimulateBody {
    pack: Value,
    #[serde(default)]
    question: PolicyQuestion,
}

async fn simulate_policy(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let SimulateBody { pack, question } = read_json(&mut visit.request).await?;
    answer(&explain(&visit.services, &question, Some(&pack)).await?)
}

async fn list_copies(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (server_name, media_id) = (visit.request.param(0)?, visit.request.param(1)?);
    let uri = OwnedMxcUri::from(format!("mxc://{server_name}/{media_id}"));
    answer(&copies(&visit.services, &uri).await?)
}

async fn erase_media(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let which: Which = read_json(&mut visit.request).await?;
    answer(&erase(&visit.services, &which, visit.caller()?.user_id.as_str()).await?)
}

async fn list_purging(visit: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&purging(&visit.services).await?)
}

async fn list_unconfirmed(visit: Visit<RawRequest>) -> Result<Response, Error> {
    answer(&unconfirmed(&visit.services).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CodeBody {
    class: String,
    user_id: Option<OwnedUserId>,
    valid_ms: u64,
}

async fn make_code(mut visit: Visit<RawRequest>) -> Result<Response, Error> {
    let CodeBody { class, user_id, valid_ms } = read_json(&mut visit.request).await?;
    let terms = (valid_ms, visit.caller()?.user_id.as_str());
    answer(&enrol(&visit.services, &class, user_id.as_deref(), terms).await?)
}

async fn lose_device(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (user_id, device_id) = (user_at(&visit.request, 0)?, visit.request.param(1)?);
    let by = visit.caller()?.user_id.as_str();
    answer(&device_lost(&visit.services, &user_id, device_id, by).await?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    const NURSE: &str = "@nurse:hospital.example";

    fn at(path: &str) -> String {
        format!("/_wardstone/admin/v1/{path}")
    }

    #[tokio::test]
    async fn the_policy_is_read_tried_set_and_explained() {
        let (desk, chief) = Desk::with_chief().await;
        desk.sign_up("nurse").await;
        let before = desk.get(&at("policy"), &chief).await.ok();
        let pack = json!({
            "name": "short", "room_class": "clinical-photo", "server": { "media": { "ttl_ms": 60_000 } },
        });
        let question = json!({ "user_id": NURSE, "device_id": "PHONE" });
        let body = json!({ "pack": pack, "question": question });
        let tried = desk.post(&at("policy/simulate"), &chief, body).await.ok();
        assert_eq!(tried["then"]["rules"]["media.ttl_ms"]["value"], 60_000, "{tried}");
        assert_eq!(desk.get(&at("policy"), &chief).await.ok(), before, "nothing is set");
        let set = desk.call("PUT", &at("policy"), &chief, pack).await.ok();
        assert_eq!(set["name"], "short");
        let explained = desk.post(&at("policy/explain"), &chief, question).await.ok();
        assert_eq!(explained, tried["then"], "what was promised holds");

        let wrong = json!({ "server": { "media": { "ttl_ms": "soon" } } });
        let refused = desk.call("PUT", &at("policy"), &chief, wrong).await;
        assert_eq!(refused.error(), (400, "M_INVALID_PARAM"));
        assert_eq!(desk.get(&at("policy"), &chief).await.ok(), set, "as it was");
        for (question, error) in [
            (json!({ "class": "nurse" }), (400, "M_INVALID_PARAM")),
            (json!({ "uri": "mxc://two.example/x" }), (400, "M_INVALID_PARAM")),
            (json!({ "user_id": NURSE, "device_id": "NONE" }), (404, "M_NOT_FOUND")),
            (json!({ "who": NURSE }), (400, "M_BAD_JSON")),
        ] {
            let refused = desk.post(&at("policy/explain"), &chief, question).await;
            assert_eq!(refused.error(), error);
        }
    }

    #[tokio::test]
    async fn who_holds_a_photo_is_known_before_and_after_its_end() {
        let (desk, chief) = Desk::with_chief().await;
        let nurse = desk.sign_up("nurse").await;
        let uploaded = desk.post("/_matrix/media/v3/upload", &nurse, json!({ "x": 1 })).await;
        let uri = uploaded.text("content_uri");
        let file = uri.trim_start_matches("mxc://");
        let copies = at(&format!("media/{file}/copies"));
        let held = desk.get(&copies, &chief).await.ok();
        assert_eq!((&held["erasure"], &held["copies"]), (&json!(null), &json!([])));
        desk.get(&format!("/v1/media/download/{file}"), &nurse).await.ok();
        let held = desk.get(&copies, &chief).await.ok();
        let [copy] = held["copies"].as_array().unwrap().as_slice() else { panic!("{held}") };
        assert_eq!(copy["user_id"], NURSE);
        assert_eq!(copy["forms"], json!(["original"]));
        assert_eq!(copy["left"], "may_hold");

        let nothing = desk.post(&at("media/erase"), &chief, json!({})).await;
        assert_eq!(nothing.error(), (400, "M_INVALID_PARAM"), "not everything");
        let erased = desk.post(&at("media/erase"), &chief, json!({ "user": NURSE })).await.ok();
        assert_eq!((&erased["files"], &erased["uris"]), (&json!(1), &json!([uri])));
        assert_eq!(desk.get(&format!("/v1/media/download/{file}"), &nurse).await.status, 404);
        let purging = desk.get(&at("media/purging"), &chief).await.ok();
        assert_eq!(purging["purging"][0]["uri"], json!(uri), "{purging}");
        desk.services.media.activate().await.unwrap();
        let purging = desk.get(&at("media/purging"), &chief).await.ok();
        assert_eq!(purging, json!({ "purging": [], "more": false }));
        let held = desk.get(&copies, &chief).await.ok();
        assert_eq!(held["erasure"]["reason"], "purged", "{held}");
        assert_eq!(held["copies"][0]["left"], "unknown", "it was told nothing yet");
        let told = desk.get(&at("media/unconfirmed"), &chief).await.ok();
        assert_eq!(told, json!({ "unconfirmed": [], "more": false }));
        let elsewhere = desk.get(&at("media/two.example/x/copies"), &chief).await;
        assert_eq!(elsewhere.error(), (400, "M_INVALID_PARAM"));
    }

    #[tokio::test]
    async fn a_device_is_raised_by_a_code_and_ended_when_it_is_lost() {
        let (desk, chief) = Desk::with_chief().await;
        let nurse = desk.sign_up("nurse").await;
        let body = json!({ "class": "managed", "user_id": NURSE, "valid_ms": 60_000 });
        let code = desk.post(&at("enrolment_codes"), &chief, body).await.text("code");
        let name = json!({ "display_name": code });
        desk.call("PUT", "/v3/devices/PHONE", &nurse, name).await.ok();
        let question = json!({ "user_id": NURSE, "device_id": "PHONE" });
        let explained = desk.post(&at("policy/explain"), &chief, question).await.ok();
        assert_eq!(explained["session_class"], "managed");
        let lost = at(&format!("users/{NURSE}/devices/PHONE/lost"));
        let ended = desk.post(&lost, &chief, json!({})).await.ok();
        assert_eq!((&ended["device_id"], &ended["may_hold"]), (&json!("PHONE"), &json!([])));
        assert!(!desk.is_in(&nurse).await);
        assert_eq!(desk.post(&lost, &chief, json!({})).await.error(), (404, "M_NOT_FOUND"));
    }
}
