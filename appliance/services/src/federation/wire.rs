//! Asking through the house's door out: each question signed, each answer bounded.

use std::time::Duration;

use appliance_model::ruma::ServerName;
use appliance_model::ruma::signatures::PublicKeySet;
use appliance_model::{Error, Kind, RoomNid};
use async_trait::async_trait;
use http::StatusCode;
use serde_json::value::RawValue;

use super::line::{Ask, OtherServers};
use crate::egress::Limits;
use crate::peers::{ASK, JOIN, Peers, RemoteError};

/// Looks at whether a server has what it is owed, and the time between them: somebody waits, ten seconds at
/// most. A few transactions of a server that is up take one.
const LOOKS_MAX: usize = 50;
const LOOK: Duration = Duration::from_millis(200);

/// Somebody waits for the policy server with everybody else in the room behind them.
const SIGN: Limits = Limits { total: Duration::from_secs(10), answer_bytes_max: 64 * 1024 };

/// What a policy server says is shown to people as it is; longer is cut.
const SAID_CHARS_MAX: usize = 500;
/// When it says "later" and not when.
const LATER_MS: u64 = 1_000;

#[async_trait]
impl OtherServers for Peers {
    fn allows(&self, server: &ServerName) -> bool {
        self.house().roll.allows(server)
    }

    async fn ask(&self, server: &ServerName, ask: Ask) -> Result<Box<RawValue>, Error> {
        let limits = match ask {
            // Both bring the state of a room.
            Ask::SendJoin { .. } | Ask::State { .. } | Ask::EventAuth { .. } => JOIN,
            Ask::Sign { .. } => SIGN,
            _ => ASK,
        };
        let (method, path) = (ask.method(), ask.path());
        let asked = self.house().ask_json(server, (method, &path), ask.body(), limits).await;
        let answer = asked.map_err(|error| match ask {
            Ask::Sign { .. } => not_signed(error),
            _ => told(error),
        })?;
        serde_json::from_slice(answer.body()).map_err(|_| {
            Error::new(Kind::RemoteUnavailable, "The other server's answer has the wrong form.")
        })
    }

    async fn settle(&self, server: &ServerName, room: RoomNid) -> Result<bool, Error> {
        let Some(last) = self.last_owed(server, room).await? else { return Ok(true) };
        // The queue's own worker sends: a transaction must not be given up when whoever waits here is.
        for look in 0..LOOKS_MAX {
            // A queue is emptied in order.
            if self.first_owed(server).await?.is_none_or(|first| first > last) {
                return Ok(true);
            }
            if look == 0 {
                self.house().outbox.heard_from(server);
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(false)
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

    async fn lends(&self, server: &ServerName) -> Result<bool, Error> {
        Ok(self.promise_of(server).await?.lends)
    }
}

/// Why a policy server has not signed.
fn not_signed(error: RemoteError) -> Error {
    let RemoteError::Refused { status, body, .. } = &error else { return error.into() };
    let said = body.get("error").and_then(serde_json::Value::as_str).unwrap_or_default();
    let said: String = said.chars().filter(|c| !c.is_control()).take(SAID_CHARS_MAX).collect();
    match *status {
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN if said.is_empty() => {
            Error::new(Kind::NotRecommended, "The room's policy server does not recommend this.")
        }
        StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN => Error::new(Kind::NotRecommended, said),
        StatusCode::TOO_MANY_REQUESTS => {
            let wait = body.get("retry_after_ms").and_then(serde_json::Value::as_u64);
            let retry_after_ms = wait.unwrap_or(LATER_MS);
            Error::new(Kind::Limited { retry_after_ms }, "The room's policy server is busy.")
        }
        _ => Error::new(Kind::RemoteUnavailable, "The room's policy server cannot answer."),
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
