//! Who is asking, when another server asks ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#request-authentication

use appliance_model::ruma::api::federation::authentication::XMatrix;
use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_model::{Error, Kind};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use http::HeaderMap;
use serde_json::{Value, json};

use super::Peers;
use super::canonical::canonical;

/// A server that says who it is and is on the list. What it asks is not to be believed before
/// [`Peers::authenticate`] has seen all of it.
#[derive(Debug)]
pub struct Claim(XMatrix);

impl Claim {
    /// Who it says it is.
    pub fn origin(&self) -> &ServerName {
        &self.0.origin
    }
}

impl Peers {
    /// Reads who asks, before anything else is read.
    ///
    /// # Errors
    ///
    /// * [`Kind::Unauthorized`]: the request says not who sends it, or is meant for another server.
    /// * [`Kind::Forbidden`]: the server is not on the list.
    pub fn recognize(&self, headers: &HeaderMap) -> Result<Claim, Error> {
        let said = XMatrix::extract_from_http_headers(headers)
            .map_err(|error| unauthorized(format!("Requests of servers are signed: {error}.")))?;
        // "If this property is included, but the value does not match the receiving server's name,
        // the receiving server must deny the request with an HTTP status code 401 Unauthorized."
        if said.destination.as_ref().is_some_and(|name| *name != self.house.server_name) {
            return Err(unauthorized("The request is meant for another server.".to_owned()));
        }
        if said.origin == self.house.server_name {
            return Err(unauthorized("This server does not write to itself.".to_owned()));
        }
        if !self.house.roll.allows(&said.origin) {
            let message = "This server is closed to servers that it has not been told about.";
            return Err(Error::forbidden(message));
        }
        Ok(Claim(said))
    }

    /// Verifies the signature over a whole request; returns who sent it.
    ///
    /// # Errors
    ///
    /// * [`Kind::Unauthorized`]: the signature is wrong, or the key cannot be had.
    /// * [`Kind::NotJson`]: the body is no JSON.
    pub async fn authenticate(
        &self,
        claim: Claim,
        method: &http::Method,
        uri: &http::Uri,
        body: &[u8],
    ) -> Result<OwnedServerName, Error> {
        let Claim(said) = claim;
        let mut signed = json!({
            "method": method.as_str(),
            "uri": uri.path_and_query().map_or("/", |path| path.as_str()),
            "origin": said.origin,
            "destination": said.destination.as_ref().unwrap_or(&self.house.server_name),
        });
        if !body.is_empty() {
            let content: Value = serde_json::from_slice(body)
                .map_err(|_| Error::new(Kind::NotJson, "The request's body is no JSON."))?;
            signed["content"] = content;
        }
        let key = self.key_in_use(&said.origin, said.key.as_str()).await?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(canonical(&signed).as_bytes(), said.sig.as_bytes())
            .map_err(|_| unauthorized("The signature of the request is wrong.".to_owned()))?;
        self.heard_from(&said.origin);
        Ok(said.origin)
    }
}

fn unauthorized(message: String) -> Error {
    Error::new(Kind::Unauthorized, message)
}
