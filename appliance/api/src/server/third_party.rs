//! Invites by e-mail or telephone ([spec]). This server works with no identity server: nobody here can
//! be invited that way, and whoever tries is told so.
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#third-party-invites

use appliance_model::Error;
use appliance_model::ruma::api::federation::thirdparty::{bind_callback, exchange_invite};
use axum::response::Response;

use crate::route::{RawRequest, Routes, Visit};

pub(crate) fn add(routes: &mut Routes) {
    routes.serve_raw_as::<exchange_invite::v1::Request, _, _>(exchange);
    routes.serve_raw_as::<bind_callback::v1::Request, _, _>(on_bind);
}

async fn exchange(visit: Visit<RawRequest>) -> Result<Response, Error> {
    visit.origin()?;
    Err(none_here())
}

/// Asked by identity servers, which cannot sign. What they say is not read.
async fn on_bind(_: Visit<RawRequest>) -> Result<Response, Error> {
    Err(none_here())
}

fn none_here() -> Error {
    Error::forbidden("This server takes no third-party invites: invite people by Matrix ID.")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::town::Town;

    #[tokio::test]
    async fn nobody_is_invited_by_mail() {
        let town = Town::of(&["a.example", "b.example"]).await;
        let path = "/exchange_third_party_invite/!ward:a.example";
        let (status, answer) = town.ask(1, "a.example", "PUT", path, json!({})).await;
        assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_FORBIDDEN")));
        let body = json!({ "medium": "email", "address": "nurse@a.example", "invites": [] });
        let (status, answer) = town.ask(1, "a.example", "PUT", "/3pid/onbind", body).await;
        assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_FORBIDDEN")));
    }
}
