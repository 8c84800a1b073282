//! Asking through the house's door out: each question signed, each answer bounded.

use appliance_model::ruma::ServerName;
use appliance_model::ruma::signatures::PublicKeySet;
use appliance_model::{Error, Kind};
use async_trait::async_trait;
use serde_json::value::RawValue;

use super::line::{Ask, OtherServers};
use crate::peers::{ASK, JOIN, Peers, RemoteError};

#[async_trait]
impl OtherServers for Peers {
    fn allows(&self, server: &ServerName) -> bool {
        self.house().roll.allows(server)
    }

    async fn ask(&self, server: &ServerName, ask: Ask) -> Result<Box<RawValue>, Error> {
        let limits = match ask {
            // Both bring the state of a room.
            Ask::SendJoin { .. } | Ask::State { .. } | Ask::EventAuth { .. } => JOIN,
            _ => ASK,
        };
        let (method, path) = (ask.method(), ask.path());
        let asked = self.house().ask_json(server, (method, &path), ask.body(), limits).await;
        let answer = asked.map_err(told)?;
        serde_json::from_slice(answer.body()).map_err(|_| {
            Error::new(Kind::RemoteUnavailable, "The other server's answer has the wrong form.")
        })
    }

    async fn keys(
        &self,
        server: &ServerName,
        key_ids: &[String],
        at_ms: u64,
    ) -> Result<PublicKeySet, Error> {
        let wanted = vec![(server.to_owned(), key_ids.to_vec(), Some(at_ms))];
        let mut keys = self.public_keys(wanted).await?;
        let keys = keys.remove(server.as_str()).unwrap_or_default();
        match keys.is_empty() {
            true => {
                Err(Error::new(Kind::RemoteUnavailable, "The other server's keys are unknown."))
            }
            false => Ok(keys),
        }
    }
}

/// What another server says about a room is for the person who asked.
fn told(error: RemoteError) -> Error {
    let RemoteError::Refused { body, .. } = &error else { return error.into() };
    let said = body.get("error").and_then(serde_json::Value::as_str).map(ToOwned::to_owned);
    let mut error = Error::from(error);
    if let (Kind::Forbidden | Kind::NotFound, Some(said)) = (&error.kind, said) {
        error.message = said.into();
    }
    error
}
