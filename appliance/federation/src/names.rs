//! From the name of a server to the place where it is ([spec]).
//!
//! [spec]: https://spec.matrix.org/v1.19/server-server-api/#resolving-server-names

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use appliance_model::ruma::{OwnedServerName, ServerName};
use appliance_services::egress::{Answer, Egress, Failure, Limits, Outgoing, Purpose};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderMap, Method, Uri};
use serde_json::Value;

/// "If … port is not present … port 8448".
pub const PORT: u16 = 8448;

/// `{"m.server": "…"}`, with room to spare.
const WELL_KNOWN: Limits = Limits { total: Duration::from_secs(20), answer_bytes_max: 50 * 1024 };

/// "30x redirection requests are followed, however redirection loops must be avoided." On the same
/// host only: another host is somebody whom nobody has allowed.
const REDIRECTS_MAX: usize = 3;

const MINUTE_MS: u64 = 60_000;
/// "a sensible default of 24 hours".
const WELL_KNOWN_MS: u64 = 24 * 60 * MINUTE_MS;
/// "no longer than 48 hours".
const WELL_KNOWN_MS_MAX: u64 = 48 * 60 * MINUTE_MS;
/// Servers that say "do not cache" are asked once in this time all the same.
const WELL_KNOWN_MS_MIN: u64 = 5 * MINUTE_MS;
/// "Errors … cached for up to an hour".
const NO_WELL_KNOWN_MS: u64 = 15 * MINUTE_MS;
/// A literal or an explicit port cannot change.
const LITERAL_MS: u64 = 24 * 60 * MINUTE_MS;
/// What SRV says is DNS's to cache; here only a burst is spared.
const SRV_MS: u64 = 5 * MINUTE_MS;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What goes into `Host`; the certificate must be for its host.
    pub authority: String,
    /// Where to connect: names or addresses, with ports; the first that answers.
    pub targets: Vec<(String, u16)>,
    /// For how long this is true, in milliseconds.
    pub lifetime_ms: u64,
}

/// Finds where a server is.
///
/// # Errors
///
/// Only that the server may not be contacted at all: for all else there is a next step.
pub async fn find(egress: &Arc<dyn Egress>, server: &ServerName) -> Result<Place, Failure> {
    // Steps 1 and 2.
    if let Some(place) = literal_or_port(server) {
        return Ok(place);
    }
    // Step 3.
    match well_known(egress, server).await? {
        (Some(delegated), lifetime_ms) => {
            let mut place = match literal_or_port(&delegated) {
                Some(place) => place,
                None => by_srv(egress, server, &delegated).await?,
            };
            place.lifetime_ms = place.lifetime_ms.min(lifetime_ms);
            Ok(place)
        }
        // Steps 4 to 6.
        (None, lifetime_ms) => {
            let mut place = by_srv(egress, server, server).await?;
            place.lifetime_ms = place.lifetime_ms.min(lifetime_ms);
            Ok(place)
        }
    }
}

/// "If the hostname is an IP literal, then that IP address should be used, together with the given
/// port number, or 8448 if no port is given"; "If the hostname is not an IP literal, and the server
/// name includes an explicit port, resolve the hostname to an IP address".
fn literal_or_port(server: &ServerName) -> Option<Place> {
    let is_literal = is_literal(server.host());
    if !is_literal && server.port().is_none() {
        return None;
    }
    Some(Place {
        authority: server.to_string(),
        targets: vec![(server.host().to_owned(), server.port().unwrap_or(PORT))],
        lifetime_ms: LITERAL_MS,
    })
}

fn is_literal(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    v6.map_or_else(|| host.parse::<IpAddr>().is_ok(), |v6| v6.parse::<Ipv6Addr>().is_ok())
}

/// "`_matrix-fed._tcp.<hostname>`", then the deprecated "`_matrix._tcp.<hostname>`", then 8448.
async fn by_srv(
    egress: &Arc<dyn Egress>,
    server: &ServerName,
    host: &ServerName,
) -> Result<Place, Failure> {
    let purpose = Purpose::PeerPlace(server.to_owned());
    for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
        let found = match egress.find_services(&purpose, &format!("{service}.{host}.")).await {
            Ok(found) => found,
            Err(Failure::Refused(why)) => return Err(Failure::Refused(why)),
            // DNS does not answer: the next step asks the system.
            Err(_) => break,
        };
        if !found.is_empty() {
            let targets = found.into_iter().map(|record| (record.target, record.port)).collect();
            return Ok(Place { authority: host.to_string(), targets, lifetime_ms: SRV_MS });
        }
    }
    let targets = vec![(host.to_string(), PORT)];
    Ok(Place { authority: host.to_string(), targets, lifetime_ms: LITERAL_MS })
}

/// What `https://<hostname>/.well-known/matrix/server` delegates to, and for how long that counts.
async fn well_known(
    egress: &Arc<dyn Egress>,
    server: &ServerName,
) -> Result<(Option<OwnedServerName>, u64), Failure> {
    let mut uri = format!("https://{}/.well-known/matrix/server", server.host());
    for _ in 0..=REDIRECTS_MAX {
        let Ok(parsed) = uri.parse::<Uri>() else { break };
        let request = Outgoing {
            purpose: Purpose::PeerPlace(server.to_owned()),
            method: Method::GET,
            uri: parsed.clone(),
            connect_to: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            limits: WELL_KNOWN,
        };
        let answer = match egress.send(request).await {
            Ok(answer) => answer,
            Err(Failure::Refused(why)) => return Err(Failure::Refused(why)),
            Err(_) => break,
        };
        if answer.status.is_redirection() {
            match redirected(&parsed, &answer.headers) {
                Some(next) => uri = next,
                None => break,
            }
            continue;
        }
        if let Some(found) = read_well_known(&answer) {
            return Ok((Some(found), lifetime_ms(&answer.headers)));
        }
        break;
    }
    Ok((None, NO_WELL_KNOWN_MS))
}

/// Where a redirect leads, if that is on the same host.
fn redirected(from: &Uri, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION)?.to_str().ok()?;
    let host = from.authority()?;
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("https://{host}{location}"));
    }
    let to: Uri = location.parse().ok()?;
    let is_same = to.scheme_str() == Some("https") && to.authority() == Some(host);
    is_same.then(|| to.to_string())
}

fn read_well_known(answer: &Answer) -> Option<OwnedServerName> {
    if !answer.status.is_success() {
        return None;
    }
    let said: Value = serde_json::from_slice(&answer.body).ok()?;
    ServerName::parse(said["m.server"].as_str()?).ok()
}

/// "the `Cache-Control` header … respected", within reason.
fn lifetime_ms(headers: &HeaderMap) -> u64 {
    let said = headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut lifetime_ms = WELL_KNOWN_MS;
    for directive in said.split(',').map(str::trim) {
        if directive.eq_ignore_ascii_case("no-store") || directive.eq_ignore_ascii_case("no-cache")
        {
            return WELL_KNOWN_MS_MIN;
        }
        let seconds = directive.to_ascii_lowercase();
        let seconds = seconds.strip_prefix("max-age=").and_then(|s| s.parse::<u64>().ok());
        lifetime_ms = seconds.map_or(lifetime_ms, |seconds| seconds.saturating_mul(1_000));
    }
    lifetime_ms.clamp(WELL_KNOWN_MS_MIN, WELL_KNOWN_MS_MAX)
}

#[cfg(test)]
mod tests;
