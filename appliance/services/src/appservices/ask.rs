//! Asking an application service: whether it has a user or a room, what it can look up, whether it is
//! there.

use std::time::Duration;

use appliance_model::ruma::{RoomAliasId, UserId};
use appliance_model::{Caller, Error, Kind};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};

use super::{Appservices, Registration, instance_id};
use crate::egress::{Answer, Failure, Limits, Outgoing, Purpose};
use crate::house::House;

/// Somebody waits for the answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(15);
/// An answer is a list of users or rooms.
const ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// What is shown of an answer that was none.
const SHOWN_BYTES_MAX: usize = 1_024;
/// "An optional transaction ID that is passed through".
const TXN_BYTES_MAX: usize = 255;

/// What stays as it is in one segment of a path (RFC 3986, unreserved).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Text as one segment of a path.
pub(super) fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// A request to an application service.
pub(super) struct Asked {
    pub method: Method,
    /// Path and query, after the URL of the service.
    pub path: String,
    pub body: Bytes,
    pub timeout: Duration,
}

impl Asked {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), timeout: QUERY_TIMEOUT }
    }
}

/// Sends a request to an application service.
async fn ask(house: &House, service: &Registration, asked: Asked) -> Result<Answer, Failure> {
    let Some(url) = &service.url else { return Err(Failure::Refused("it has no URL".to_owned())) };
    let uri = format!("{url}{}", asked.path);
    let uri = uri.parse().map_err(|_| Failure::Unreachable("its URL is none".to_owned()))?;
    // "Homeservers MUST include … `Authorization: Bearer`" with the `hs_token`.
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", service.hs_token))
        .map_err(|_| Failure::Unreachable("its `hs_token` fits into no header".to_owned()))?;
    bearer.set_sensitive(true);
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, bearer);
    if !asked.body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let request = Outgoing {
        purpose: Purpose::AppService,
        method: asked.method,
        uri,
        connect_to: None,
        headers,
        body: asked.body,
        limits: Limits { total: asked.timeout, answer_bytes_max: ANSWER_BYTES_MAX },
    };
    house.egress.send(request).await
}

/// Asks the application service whose user this would be, if any, to make it. Returns whether one
/// says that it did.
pub(crate) async fn user_is_made(house: &House, user_id: &UserId) -> bool {
    let path = format!("/_matrix/app/v1/users/{}", path_segment(user_id.as_str()));
    is_made(house, path, |service| service.users.holds(user_id.as_str())).await
}

/// Asks the application services whose alias this would be, if any, to make the room.
pub(crate) async fn alias_is_made(house: &House, alias: &RoomAliasId) -> bool {
    let path = format!("/_matrix/app/v1/rooms/{}", path_segment(alias.as_str()));
    is_made(house, path, |service| service.aliases.holds(alias.as_str())).await
}

async fn is_made(house: &House, path: String, concerns: impl Fn(&Registration) -> bool) -> bool {
    for one in house.appservices.all().iter() {
        let service = &one.registration;
        if service.url.is_none() || !concerns(service) {
            continue;
        }
        match ask(house, service, Asked::get(path.clone())).await {
            Ok(answer) if answer.status == StatusCode::OK => return true,
            Ok(_) => {}
            Err(failure) => {
                tracing::warn!(kind = "appservice.silent", appservice = %service.id, %failure,
                    "an application service could not be asked");
            }
        }
    }
    false
}

impl Appservices {
    pub(super) async fn ask(
        &self,
        service: &Registration,
        asked: Asked,
    ) -> Result<Answer, Failure> {
        ask(&self.house, service, asked).await
    }

    /// "Ensure that the connection works and the `hs_token` the homeserver has is correct" ([spec]).
    ///
    /// [spec]: https://spec.matrix.org/v1.19/application-service-api/#pinging
    ///
    /// Returns how long the answer took, in milliseconds.
    ///
    /// # Errors
    ///
    /// [`Kind::Forbidden`] for all but the service itself; [`Kind::UrlNotSet`],
    /// [`Kind::BadStatus`], [`Kind::ConnectionFailed`] or [`Kind::ConnectionTimeout`] if it does not
    /// answer as it should.
    pub async fn ping(
        &self,
        caller: &Caller,
        id: &str,
        transaction_id: Option<String>,
    ) -> Result<u64, Error> {
        let not_it = || Error::forbidden("Only the application service itself can ask for this.");
        let own = caller.appservice.as_deref().filter(|own| *own == id).ok_or_else(not_it)?;
        let one = self.house.appservices.by_id(own).ok_or_else(not_it)?;
        if transaction_id.as_ref().is_some_and(|id| id.len() > TXN_BYTES_MAX) {
            return Err(Error::invalid_param("`transaction_id` is longer than 255 bytes."));
        }
        if one.registration.url.is_none() {
            return Err(Error::new(Kind::UrlNotSet, "The application service has no URL."));
        }
        let body = match transaction_id {
            Some(id) => json!({ "transaction_id": id }),
            None => json!({}),
        };
        let asked = Asked {
            method: Method::POST,
            path: "/_matrix/app/v1/ping".to_owned(),
            body: body.to_string().into(),
            timeout: QUERY_TIMEOUT,
        };
        let began_ms = self.house.clock.now_ms();
        match self.ask(&one.registration, asked).await {
            Ok(answer) if answer.status.is_success() => {
                self.ring(id);
                Ok(self.house.clock.now_ms().saturating_sub(began_ms))
            }
            Ok(answer) => Err(bad_status(&answer)),
            Err(Failure::TimedOut) => {
                let why = "The application service did not answer in time.";
                Err(Error::new(Kind::ConnectionTimeout, why))
            }
            Err(failure) => {
                let why = format!("The application service cannot be reached: {failure}.");
                Err(Error::new(Kind::ConnectionFailed, why))
            }
        }
    }

    /// The protocols that application services can look names up in, by name ([spec]); `only` asks
    /// for one.
    ///
    /// [spec]: https://spec.matrix.org/v1.19/client-server-api/#third-party-lookups
    pub async fn protocols(&self, only: Option<&str>) -> Map<String, Value> {
        let mut found: Map<String, Value> = Map::new();
        for one in self.house.appservices.all().iter() {
            let service = &one.registration;
            for protocol in &service.protocols {
                if only.is_some_and(|only| only != protocol) {
                    continue;
                }
                let path =
                    format!("/_matrix/app/v1/thirdparty/protocol/{}", path_segment(protocol));
                let Some(Value::Object(mut told)) = self.look_up(service, path).await else {
                    continue;
                };
                name_instances(service, &mut told);
                match found.get_mut(protocol).and_then(|known| known["instances"].as_array_mut()) {
                    // Two bridges to one network: one protocol with the instances of both.
                    Some(known) => {
                        let more = told.get_mut("instances").and_then(Value::as_array_mut);
                        known.append(more.unwrap_or(&mut Vec::new()));
                    }
                    None => {
                        found.insert(protocol.clone(), told.into());
                    }
                }
            }
        }
        found
    }

    /// What application services know of users or locations of other networks: `kind` is `user` or
    /// `location`, `protocol` asks those of one protocol, and `query` is passed on.
    pub async fn third_party(
        &self,
        kind: &str,
        protocol: Option<&str>,
        query: &[(String, String)],
    ) -> Vec<Value> {
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{}={}", path_segment(name), path_segment(value)))
            .collect();
        let mut path = format!("/_matrix/app/v1/thirdparty/{kind}");
        if let Some(protocol) = protocol {
            path.push('/');
            path.push_str(&path_segment(protocol));
        }
        if !query.is_empty() {
            path.push('?');
            path.push_str(&query.join("&"));
        }
        let mut found = Vec::new();
        for one in self.house.appservices.all().iter() {
            let service = &one.registration;
            let speaks = match protocol {
                Some(protocol) => service.protocols.iter().any(|own| own == protocol),
                None => !service.protocols.is_empty(),
            };
            if speaks
                && let Some(Value::Array(mut told)) = self.look_up(service, path.clone()).await
            {
                told.retain(|one| one.is_object());
                found.append(&mut told);
            }
        }
        found
    }

    async fn look_up(&self, service: &Registration, path: String) -> Option<Value> {
        service.url.as_ref()?;
        match self.ask(service, Asked::get(path)).await {
            Ok(answer) if answer.status.is_success() => serde_json::from_slice(&answer.body).ok(),
            Ok(_) => None,
            Err(failure) => {
                tracing::warn!(kind = "appservice.silent", appservice = %service.id, %failure,
                    "an application service could not be asked");
                None
            }
        }
    }
}

/// What a service hears whose answer was not the one expected.
fn bad_status(answer: &Answer) -> Error {
    let status = answer.status.as_u16();
    let shown = &answer.body[..answer.body.len().min(SHOWN_BYTES_MAX)];
    let body = String::from_utf8_lossy(shown).into_owned();
    let why = format!("The application service answered with status {status}.");
    Error::new(Kind::BadStatus { status, body }, why)
}

/// "instance_id … a unique identifier across all instances", by which clients ask for a directory.
fn name_instances(service: &Registration, protocol: &mut Map<String, Value>) {
    let instances = protocol.entry("instances").or_insert_with(|| json!([]));
    for instance in instances.as_array_mut().into_iter().flatten() {
        let network = instance["network_id"].as_str().unwrap_or_default().to_owned();
        if let Some(instance) = instance.as_object_mut() {
            instance.insert("instance_id".to_owned(), instance_id(&service.id, &network).into());
        }
    }
}
