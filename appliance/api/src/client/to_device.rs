//! Messages between devices.

use appliance_model::Error;
use appliance_model::ruma::api::client::to_device::send_event_to_device;

use crate::route::{Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve(send_event_to_device);
}

async fn send_event_to_device(
    visit: Visit<send_event_to_device::v3::Request>,
) -> Result<send_event_to_device::v3::Response, Error> {
    visit.services.keys.send_to_device(visit.caller()?, &visit.request).await?;
    Ok(send_event_to_device::v3::Response::new())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::scenario::Desk;

    #[tokio::test]
    async fn messages_arrive_in_sync_once_and_go_when_the_device_has_them() {
        let desk = Desk::new().await;
        let (nurse, doctor) = (desk.sign_up("nurse").await, desk.sign_up("doctor").await);
        let tablet = desk.sign_in("doctor", "TABLET").await;
        let path = "/v3/sendToDevice/m.key.verification.request/1";
        let body = json!({ "messages": { "@doctor:hospital.example": { "*": { "a": 1 } } } });
        for _ in 0..2 {
            assert_eq!(desk.call("PUT", path, &nurse, body.clone()).await.ok(), json!({}));
        }
        let expected = json!([{
            "content": { "a": 1 },
            "sender": "@nurse:hospital.example",
            "type": "m.key.verification.request",
        }]);
        for token in [&doctor, &tablet] {
            for _ in 0..2 {
                let first = desk.get("/v3/sync", token).await.ok();
                assert_eq!(first["to_device"]["events"], expected, "given again until fetched");
            }
            let first = desk.get("/v3/sync", token).await.text("next_batch");
            let next = desk.get(&format!("/v3/sync?since={first}"), token).await.ok();
            assert!(next["to_device"]["events"].as_array().is_none_or(Vec::is_empty));
            let again = desk.get("/v3/sync", token).await.ok();
            assert!(again["to_device"]["events"].as_array().is_none_or(Vec::is_empty));
        }
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let desk = Desk::new().await;
        let nurse = desk.sign_up("nurse").await;
        let path = "/v3/sendToDevice/m.test/1";
        for (body, code) in [
            (json!({}), "M_BAD_JSON"),
            (json!({ "messages": [] }), "M_BAD_JSON"),
            (json!({ "messages": { "nobody": { "*": {} } } }), "M_BAD_JSON"),
            (json!({ "messages": { "@a:hospital.example": { "*": 7 } } }), "M_BAD_JSON"),
            (json!({ "messages": { "@a:hospital.example": { "": {} } } }), "M_BAD_JSON"),
        ] {
            let refused = desk.call("PUT", path, &nurse, body.clone()).await;
            assert_eq!(refused.error(), (400, code), "{body}");
        }
    }
}
