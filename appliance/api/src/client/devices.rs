//! The caller's devices.

use appliance_model::Error;
use appliance_model::ruma::OwnedDeviceId;
use appliance_model::ruma::api::client::device::{
    delete_device, delete_devices, get_device, get_devices, update_device,
};
use appliance_services::accounts::Device;
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::form::Form;
use crate::route::{Access, RawRequest, Routes, Visit, json_response};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_form::<get_devices::v3::Request, IgnoredAny, _, _>(list);
    routes.serve_form::<get_device::v3::Request, IgnoredAny, _, _>(get);
    routes.serve_form::<update_device::v3::Request, _, _, _>(update);
    routes.serve_form::<delete_device::v3::Request, IgnoredAny, _, _>(delete);
    routes.serve_form::<delete_devices::v3::Request, _, _, _>(delete_many);
    routes.serve_raw(Method::POST, ENROL, Access::SignedIn, enrol);
}

/// Raises the class of the caller's session with a one-time code of the administrator's:
/// `{"code": "WSE-…"}` to `{"class": "managed"}`. A code that is not valid is `M_FORBIDDEN`, many of
/// them `M_LIMIT_EXCEEDED`. Apps that do not know it give the session the code for a name.
const ENROL: &str = "/_matrix/client/unstable/io.wardstone/enrol";
/// `{"code": …}`, with room to spare.
const ENROL_BYTES_MAX: usize = 1_024;

/// All four fields, null where nothing is known: "absent" would be enough, but matrix-nio drops the
/// whole list when one is missing.
fn shown(device: &Device) -> Value {
    json!({
        "device_id": device.device_id,
        "display_name": device.display_name,
        "last_seen_ip": device.last_seen_ip,
        "last_seen_ts": device.last_seen_ms,
    })
}

async fn list(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let devices = visit.services.accounts.devices(visit.caller()?).await?;
    let devices: Vec<_> = devices.iter().map(shown).collect();
    Ok(json_response(StatusCode::OK, json!({ "devices": devices }).to_string()))
}

async fn get(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let device_id = OwnedDeviceId::from(visit.request.param(0)?);
    let device = visit.services.accounts.device(visit.caller()?, &device_id).await?;
    Ok(json_response(StatusCode::OK, shown(&device).to_string()))
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

async fn enrol(visit: Visit<RawRequest>) -> Result<Response, Error> {
    let (services, caller) = (visit.services.clone(), visit.caller()?.clone());
    let malformed = || Error::bad_json("The body is like {\"code\": \"WSE-…\"}.");
    let body = axum::body::to_bytes(visit.request.body, ENROL_BYTES_MAX).await;
    let body = body.map_err(|_| malformed())?;
    let Code { code } = serde_json::from_slice(&body).map_err(|_| malformed())?;
    let class = services.accounts.enrol(&caller, &caller.device_id, &code).await?;
    Ok(json_response(StatusCode::OK, json!({ "class": class.as_str() }).to_string()))
}

#[derive(Deserialize)]
struct Update {
    display_name: Option<String>,
}

async fn update(visit: Visit<Form<Update>>) -> Result<Response, Error> {
    let caller = visit.caller()?;
    let (accounts, name) = (&visit.services.accounts, visit.request.body.display_name.clone());
    let device_id = OwnedDeviceId::from(visit.request.param(0)?);
    let made = if caller.appservice.is_some() {
        accounts.put_device(caller, &device_id, name).await?
    } else {
        accounts.name_device(caller, &device_id, name).await?;
        false
    };
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, "{}"))
}

async fn delete(visit: Visit<Form<IgnoredAny>>) -> Result<Response, Error> {
    let device_id = OwnedDeviceId::from(visit.request.param(0)?);
    visit.services.accounts.delete_devices(visit.caller()?, visit.proof(), &[device_id]).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

#[derive(Deserialize)]
struct DeleteMany {
    devices: Vec<OwnedDeviceId>,
}

async fn delete_many(visit: Visit<Form<DeleteMany>>) -> Result<Response, Error> {
    let devices = &visit.request.body.devices;
    visit.services.accounts.delete_devices(visit.caller()?, visit.proof(), devices).await?;
    Ok(json_response(StatusCode::OK, "{}"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::scenario::{Desk, own_password};

    #[tokio::test]
    async fn an_owner_sees_and_names_devices_and_nobody_elses() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        desk.clock.pass_ms(5_000);
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        let stranger = desk.sign_up("doctor").await;
        let name = json!({ "display_name": "Ward 4" });
        desk.call("PUT", "/v3/devices/LAPTOP", &phone, name).await.ok();
        desk.call("PUT", "/v3/devices/LAPTOP", &phone, json!({})).await.ok();

        let devices = desk.get("/v3/devices", &laptop).await.ok();
        assert_eq!(
            devices,
            json!({ "devices": [
                { "device_id": "LAPTOP", "display_name": "Ward 4",
                  "last_seen_ip": "192.0.2.7", "last_seen_ts": 1_700_000_005_000_u64 },
                { "device_id": "PHONE", "display_name": null,
                  "last_seen_ip": "192.0.2.7", "last_seen_ts": 1_700_000_005_000_u64 },
            ]})
        );
        let one = desk.get("/v3/devices/LAPTOP", &laptop).await.ok();
        assert_eq!(one["display_name"], "Ward 4", "no name leaves the name");

        let long = json!({ "display_name": "x".repeat(101) });
        let refused = desk.call("PUT", "/v3/devices/LAPTOP", &phone, long).await;
        assert_eq!(refused.error(), (413, "M_TOO_LARGE"));
        for (method, body) in [("GET", Value::Null), ("PUT", json!({ "display_name": "mine" }))] {
            let path = "/v3/devices/LAPTOP";
            assert_eq!(
                desk.call(method, path, &stranger, body).await.error(),
                (404, "M_NOT_FOUND")
            );
        }
        for path in ["/v3/devices", "/v3/devices/PHONE"] {
            assert_eq!(desk.get(path, "").await.error(), (401, "M_MISSING_TOKEN"));
            assert_eq!(desk.get(path, "guess").await.error(), (401, "M_UNKNOWN_TOKEN"));
        }
    }

    #[tokio::test]
    async fn when_a_device_was_seen_survives_in_writing() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        desk.is_in(&phone).await;
        desk.is_in(&laptop).await;
        let accounts = &desk.services.accounts;
        assert_eq!(accounts.write_last_seen().await.unwrap(), 2);
        assert_eq!(accounts.write_last_seen().await.unwrap(), 0, "nobody came since");

        desk.clock.pass_ms(60_000);
        desk.is_in(&phone).await;
        desk.post("/v3/logout", &laptop, json!({})).await.ok();
        assert_eq!(accounts.write_last_seen().await.unwrap(), 1, "the laptop is no more");
        desk.clock.pass_ms(60_000);
        let one = desk.get("/v3/devices/PHONE", &phone).await.ok();
        assert_eq!(one["last_seen_ts"], 1_700_000_120_000_u64, "now");
        assert_eq!(desk.get("/v3/devices/LAPTOP", &phone).await.status, 404);
    }

    /// A token alone ends no device: its holder may have found the phone.
    #[tokio::test]
    async fn ending_a_device_takes_the_password() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        let laptop = desk.sign_in("nurse", "LAPTOP").await;
        let delete = async |device: &str, body| {
            desk.call("DELETE", &format!("/v3/devices/{device}"), &phone, body).await
        };
        let asked = delete("LAPTOP", Value::Null).await;
        assert_eq!(asked.status, 401);
        assert_eq!(asked.json["flows"], json!([{ "stages": ["m.login.password"] }]));
        assert_eq!(asked.json.get("errcode"), None, "nothing was tried yet");
        let session = asked.text("session");

        let mut wrong = own_password("nurse", &session);
        wrong["password"] = json!("guess");
        let refused = delete("LAPTOP", json!({ "auth": wrong })).await;
        assert_eq!(refused.error(), (401, "M_FORBIDDEN"));
        assert_eq!(refused.text("session"), session, "the same session goes on");
        assert!(desk.is_in(&laptop).await);

        // What was agreed to is what happens, nothing else.
        let other = delete("PHONE", json!({ "auth": own_password("nurse", &session) })).await;
        assert_eq!(other.error(), (403, "M_FORBIDDEN"));

        delete("LAPTOP", json!({ "auth": own_password("nurse", &session) })).await.ok();
        assert!(!desk.is_in(&laptop).await);
        assert!(desk.is_in(&phone).await);
        // "… or had been removed previously"; and all of it fits into one request.
        delete("LAPTOP", json!({ "auth": own_password("nurse", "") })).await.ok();
    }

    #[tokio::test]
    async fn another_ones_session_or_password_is_no_proof() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let doctor = desk.sign_up("doctor").await;
        let body = |auth| json!({ "devices": ["PHONE"], "auth": auth });
        let asked = desk.post("/v3/delete_devices", &nurse, body(Value::Null)).await;
        let session = asked.text("session");

        let stolen = body(own_password("doctor", &session));
        let refused = desk.post("/v3/delete_devices", &doctor, stolen).await;
        assert_eq!(refused.error(), (403, "M_FORBIDDEN"));
        let swapped = body(own_password("doctor", ""));
        let refused = desk.post("/v3/delete_devices", &nurse, swapped).await;
        assert_eq!(refused.error(), (401, "M_FORBIDDEN"));
        let dummy = body(json!({ "type": "m.login.dummy" }));
        let refused = desk.post("/v3/delete_devices", &nurse, dummy).await;
        assert_eq!(refused.error(), (401, "M_UNRECOGNIZED"));
        let asking =
            desk.post("/v3/delete_devices", &nurse, body(json!({ "session": session }))).await;
        assert_eq!((asking.status, asking.json.get("errcode")), (401, None), "how far am I?");
        assert!(desk.is_in(&nurse).await && desk.is_in(&doctor).await);

        // As clients of before r0.5 say it.
        let legacy = json!({ "type": "m.login.password", "user": "@nurse:hospital.example",
            "password": "nurse", "session": session });
        desk.post("/v3/delete_devices", &nurse, body(legacy)).await.ok();
        assert!(!desk.is_in(&nurse).await);

        let malformed = body(json!("password"));
        let refused = desk.post("/v3/delete_devices", &doctor, malformed).await;
        assert_eq!(refused.error(), (400, "M_BAD_JSON"));
        let none = desk.post("/v3/delete_devices", &doctor, json!({})).await;
        assert_eq!(none.error(), (400, "M_BAD_JSON"));
        let stranger = desk.post("/v3/delete_devices", "", body(Value::Null)).await;
        assert_eq!(stranger.error(), (401, "M_MISSING_TOKEN"));
    }

    #[tokio::test]
    async fn an_old_session_is_forgotten_and_the_password_still_does() {
        let desk = Desk::new().await;
        let phone = desk.sign_up("nurse").await;
        desk.sign_in("nurse", "LAPTOP").await;
        let asked = desk.post("/v3/delete_devices", &phone, json!({ "devices": ["LAPTOP"] })).await;
        desk.clock.pass_ms(15 * 60 * 1_000);
        let auth = json!({ "session": asked.text("session") });
        let body = json!({ "devices": ["LAPTOP"], "auth": auth });
        let again = desk.post("/v3/delete_devices", &phone, body).await;
        assert_eq!(again.status, 401);
        assert_ne!(again.text("session"), asked.text("session"));
        let auth = own_password("nurse", &asked.text("session"));
        let body = json!({ "devices": ["LAPTOP"], "auth": auth });
        desk.post("/v3/delete_devices", &phone, body).await.ok();
    }
}
