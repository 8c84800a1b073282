//! A federation list that somebody signs for many hospitals, in the shape of the gematik's
//! Föderationsliste: a JSON Web Signature ([RFC 7515], compact form) over `{"version": 7, "domainList":
//! [{"domain": "…", "telematikID": "…", "isInsurance": false}]}`.
//!
//! Its algorithm and its key are written in the settings: what the list says about either counts for
//! nothing. Its version never goes back. While nobody can get a good list, the last good one counts for
//! as long as the settings say, and the journal says so; then it counts no more.
//!
//! [RFC 7515]: https://www.rfc-editor.org/rfc/rfc7515

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use appliance_ledger::keyspaces::FEDERATION_LIST;
use appliance_ledger::rows::peers::ListRow;
use appliance_model::Error;
use appliance_model::ruma::ServerName;
use appliance_rules::Permit;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PSS_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use serde::Deserialize;

use super::Peers;
use crate::egress::{Limits, Outgoing, Purpose};

/// All hospitals, practices and insurers of a country, some 200 bytes each.
const LIST_BYTES_MAX: usize = 16 * 1024 * 1024;

const LIMITS: Limits =
    Limits { total: Duration::from_secs(60), answer_bytes_max: LIST_BYTES_MAX as u64 };

/// A server that is not on the list may be so new that it is on the next one. It makes this server look,
/// but not at every knock.
const MISSED_AGAIN_MS: u64 = 5 * 60 * 1_000;

/// After a failure, somewhat sooner than after a success.
const FAILED_AGAIN_MS: u64 = 5 * 60 * 1_000;

/// How the list is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListAlgorithm {
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

impl ListAlgorithm {
    /// By its name in JWS headers.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Es256, Self::Es384, Self::EdDsa, Self::Ps256].into_iter().find(|a| a.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Ps256 => "PS256",
        }
    }

    fn verifier(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::EdDsa => &ED25519,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
        }
    }
}

/// Where the list comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListSource {
    /// A file that somebody puts there.
    File(PathBuf),
    /// A URL, asked through the one door out.
    Url(Uri),
}

/// What the settings say of the list.
#[derive(Clone, Debug)]
pub struct ListTerms {
    /// Where it comes from.
    pub source: ListSource,
    /// How it is signed.
    pub algorithm: ListAlgorithm,
    /// By whom: a public key (`SubjectPublicKeyInfo`, DER).
    pub key: Vec<u8>,
    /// How often it is looked for, in milliseconds.
    pub refresh_ms: u64,
    /// How long the last good one counts while there is no other, in milliseconds.
    pub keep_ms: u64,
}

/// How things stand with the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListReport {
    /// Its version; none: there never was a good one.
    pub version: Option<u64>,
    /// Servers on it.
    pub servers: usize,
    /// When it was last found to be good, in milliseconds since the Unix epoch.
    pub confirmed_ms: Option<u64>,
    /// Until when it counts if it is never found again, in milliseconds since the Unix epoch.
    pub until_ms: Option<u64>,
    /// What went wrong the last time, if something did.
    pub problem: Option<String>,
}

/// The servers of the list, as the roll keeps them.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    /// Names, or their SHA-256 in hexadecimal digits where the list says so.
    pub names: BTreeSet<String>,
    pub is_hashed: bool,
    /// Counts no more from then on: milliseconds since the Unix epoch.
    pub until_ms: u64,
}

impl Listed {
    /// Whether a server is on it.
    pub fn has(&self, server: &ServerName) -> bool {
        match self.is_hashed {
            true => self.names.contains(&hex(server.as_bytes())),
            false => self.names.contains(server.as_str()),
        }
    }
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct Look {
    tried_ms: Option<u64>,
    problem: Option<String>,
}

impl Peers {
    /// Reads the last good list. Called once, before anybody is let in or out.
    pub(super) async fn load_list(&self) -> Result<(), Error> {
        let Some(terms) = &self.house.options.federation_list else { return Ok(()) };
        let Some(row) = self.house.ledger.get(&FEDERATION_LIST, &0).await? else { return Ok(()) };
        // The settings may name another key since: what that key did not sign counts no more.
        match read(terms, &row.jws) {
            Ok(list) => self.put_up(terms, &list, row.confirmed_ms),
            Err(why) => {
                tracing::warn!(kind = "peers.list", why, "the list that was kept counts no more");
            }
        }
        Ok(())
    }

    /// Looks for a newer list if it is time. A job calls this, often.
    ///
    /// # Errors
    ///
    /// If the store fails. What is wrong with the list is said in the journal and by
    /// [`Peers::list_report`].
    pub async fn refresh_list(&self) -> Result<(), Error> {
        let Some(terms) = self.house.options.federation_list.clone() else { return Ok(()) };
        let now_ms = self.house.clock.now_ms();
        if !self.is_time_to_look(&terms, now_ms) {
            return Ok(());
        }
        let found = match self.fetch(&terms).await {
            Ok(jws) => self.take_list(&terms, jws).await?,
            Err(why) => Err(why),
        };
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let problem = found.err();
        if problem != look.problem {
            match &problem {
                Some(why) => tracing::error!(
                    kind = "peers.list",
                    why,
                    "there is no good federation list; the last good one counts for a while"
                ),
                None => tracing::info!(kind = "peers.list", "the federation list is good again"),
            }
        }
        look.problem = problem;
        Ok(())
    }

    fn is_time_to_look(&self, terms: &ListTerms, now_ms: u64) -> bool {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let wait_ms = match (&look.problem, self.house.roll.was_missed()) {
            (Some(_), _) => FAILED_AGAIN_MS.min(terms.refresh_ms),
            (None, true) => MISSED_AGAIN_MS.min(terms.refresh_ms),
            (None, false) => terms.refresh_ms,
        };
        let is_time = look.tried_ms.is_none_or(|tried_ms| now_ms.abs_diff(tried_ms) >= wait_ms);
        if is_time {
            look.tried_ms = Some(now_ms);
            self.house.roll.forget_missed();
        }
        is_time
    }

    async fn fetch(&self, terms: &ListTerms) -> Result<Vec<u8>, String> {
        match &terms.source {
            ListSource::File(file) => {
                let wrong = |error: std::io::Error| format!("{}: {error}", file.display());
                let length = tokio::fs::metadata(file).await.map_err(wrong)?.len();
                if length > LIST_BYTES_MAX as u64 {
                    return Err(format!("{}: larger than {LIST_BYTES_MAX} bytes", file.display()));
                }
                tokio::fs::read(file).await.map_err(wrong)
            }
            ListSource::Url(uri) => {
                let request = Outgoing {
                    purpose: Purpose::FederationList,
                    method: Method::GET,
                    uri: uri.clone(),
                    connect_to: None,
                    headers: HeaderMap::new(),
                    body: Bytes::new(),
                    limits: LIMITS,
                };
                let answer = self.house.egress.send(request).await;
                let answer = answer.map_err(|failure| failure.to_string())?;
                if !answer.status.is_success() {
                    return Err(format!("{uri} answers with status {}", answer.status));
                }
                Ok(answer.body.to_vec())
            }
        }
    }

    /// Takes a list, if it is good and not older than the one there is.
    async fn take_list(
        &self,
        terms: &ListTerms,
        jws: Vec<u8>,
    ) -> Result<Result<(), String>, Error> {
        let list = match read(terms, &jws) {
            Ok(list) => list,
            Err(why) => return Ok(Err(why)),
        };
        let now_ms = self.house.clock.now_ms();
        if list.exp.is_some_and(|exp| now_ms / 1_000 >= exp) {
            return Ok(Err("its time is over".to_owned()));
        }
        let known = self.house.ledger.get(&FEDERATION_LIST, &0).await?;
        let is_new = match &known {
            Some(known) if list.version < known.version => {
                return Ok(Err(format!(
                    "it has version {}, and version {} was seen already",
                    list.version, known.version
                )));
            }
            Some(known) if list.version == known.version && known.jws != jws => {
                // Signatures differ each time; what is signed must not.
                if payload_of(&known.jws) != payload_of(&jws) {
                    return Ok(Err(format!("there are two lists of version {}", list.version)));
                }
                false
            }
            Some(known) => list.version > known.version,
            None => true,
        };
        let permit = match is_new {
            true => Permit::administration("peer.list", "federation list", list.version),
            false => Permit::housekeeping(),
        };
        let mut commit = self.house.ledger.begin(permit);
        let row = ListRow { version: list.version, confirmed_ms: now_ms, jws };
        commit.put(&FEDERATION_LIST, &0, &row);
        self.house.ledger.commit(commit).await?;
        self.put_up(terms, &list, now_ms);
        Ok(Ok(()))
    }

    fn put_up(&self, terms: &ListTerms, list: &List, confirmed_ms: u64) {
        let names = list.domains.iter().map(|entry| entry.domain.to_ascii_lowercase()).collect();
        let until_ms = confirmed_ms.saturating_add(terms.keep_ms);
        let listed = Listed { names, is_hashed: list.is_hashed(), until_ms };
        self.house.roll.list(Arc::new(listed));
        self.house.outbox.wake_known();
    }

    /// How things stand with the list; none if the settings name none.
    ///
    /// # Errors
    ///
    /// If the store fails.
    pub async fn list_report(&self) -> Result<Option<ListReport>, Error> {
        let Some(terms) = &self.house.options.federation_list else { return Ok(None) };
        let row = self.house.ledger.get(&FEDERATION_LIST, &0).await?;
        let problem = self.look.lock().unwrap_or_else(PoisonError::into_inner).problem.clone();
        let list = row.as_ref().and_then(|row| read(terms, &row.jws).ok());
        let row = row.filter(|_| list.is_some());
        Ok(Some(ListReport {
            version: row.as_ref().map(|row| row.version),
            servers: list.map_or(0, |list| list.domains.len()),
            confirmed_ms: row.as_ref().map(|row| row.confirmed_ms),
            until_ms: row.map(|row| row.confirmed_ms.saturating_add(terms.keep_ms)),
            problem,
        }))
    }
}

/// What is signed.
#[derive(Debug, Deserialize)]
struct List {
    version: u64,
    #[serde(rename = "domainList")]
    domains: Vec<Entry>,
    #[serde(rename = "hashAlgorithm", default)]
    hash_algorithm: Option<String>,
    /// "The `exp` claim", in seconds since the Unix epoch, where a list has one.
    #[serde(default)]
    exp: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Entry {
    domain: String,
}

impl List {
    /// The list has digests in the place of names.
    fn is_hashed(&self) -> bool {
        let is_digest = |entry: &Entry| {
            entry.domain.len() == 64 && entry.domain.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        self.hash_algorithm.is_some()
            && !self.domains.is_empty()
            && self.domains.iter().all(is_digest)
    }
}

/// Reads and verifies a list.
fn read(terms: &ListTerms, jws: &[u8]) -> Result<List, String> {
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        #[serde(default)]
        crit: Option<serde_json::Value>,
    }
    let text = std::str::from_utf8(jws).map_err(|_| "it is no text".to_owned())?.trim();
    let parts: Vec<_> = text.splitn(4, '.').collect();
    let [header, payload, signature] = parts[..] else {
        return Err("it is no JSON Web Signature of three parts".to_owned());
    };
    let decode =
        |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "it is no Base64".to_owned());
    let said: Header = serde_json::from_slice(&decode(header)?)
        .map_err(|error| format!("its header makes no sense: {error}"))?;
    // What a signature says about itself must not choose how it is verified.
    let expected = terms.algorithm.name();
    if said.alg != expected {
        return Err(format!("it is signed with {:?}, and the settings say {expected}", said.alg));
    }
    // "If any of the listed extension Header Parameters are not understood … the JWS is invalid."
    if said.crit.is_some() {
        return Err("its header demands what this server does not know".to_owned());
    }
    let signed = &text[..header.len() + 1 + payload.len()];
    UnparsedPublicKey::new(terms.algorithm.verifier(), &terms.key)
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| "its signature is wrong".to_owned())?;
    let list: List = serde_json::from_slice(&decode(payload)?)
        .map_err(|error| format!("it is no federation list: {error}"))?;
    match list.hash_algorithm.as_deref() {
        None | Some("SHA-256") => Ok(list),
        Some(other) => Err(format!("its names are hashed with {other:?}")),
    }
}

fn payload_of(jws: &[u8]) -> Option<&[u8]> {
    jws.trim_ascii().split(|byte| *byte == b'.').nth(1)
}

fn hex(name: &[u8]) -> String {
    digest(&SHA256, name).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
