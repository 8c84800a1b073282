//! The door for other servers. Who is not on the list is turned away before anything it sent is read;
//! who is, is believed once the signature over the whole request is verified.

use appliance_model::Error;
use appliance_model::ruma::OwnedServerName;
use appliance_services::Services;
use axum::body::Body;
use axum::extract::Request;

use crate::json_body;
use crate::route::{Access, read_body};

/// A transaction: 50 events of 64 KiB, and as much again for 100 messages between devices.
pub(crate) const BODY_BYTES_MAX: usize = 12 * 1024 * 1024;

/// Lets a server in where servers are let in: returns who it is, and the request, whose body is in
/// memory then.
///
/// # Errors
///
/// Of [`appliance_services::peers::Peers::recognize`] and
/// [`appliance_services::peers::Peers::authenticate`].
pub(crate) async fn admit(
    services: &Services,
    access: Access,
    request: Request,
) -> Result<(Option<OwnedServerName>, Request), Error> {
    if access != Access::Peer {
        return Ok((None, request));
    }
    let claim = services.peers.recognize(request.headers())?;
    let (parts, body) = request.into_parts();
    let body = read_body(body, BODY_BYTES_MAX).await?;
    if !body.is_empty() {
        json_body::check(&body)?;
    }
    let origin = services.peers.authenticate(claim, &parts.method, &parts.uri, &body).await?;
    Ok((Some(origin), Request::from_parts(parts, Body::from(body))))
}
