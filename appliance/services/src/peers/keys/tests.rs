//! A peer that changes its keys, its clock and its mind, and what `wardstone peers check` says of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use appliance_model::ruma::signatures::{Ed25519KeyPair, sign_json};
use appliance_model::ruma::{CanonicalJsonObject, server_name};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde_json::json;

use super::*;
use crate::egress::{Failure, Opened};
use crate::peers::{PeerCheck, Remote, Roll};
use crate::scenario::Ward;

/// The ward's clock stands here.
const NOW_MS: u64 = 1_700_000_000_000;

/// Another hospital.
struct Other {
    /// Those it shows, each signing.
    keys: Mutex<Vec<&'static str>>,
    ahead_ms: Mutex<u64>,
    lets_in: Mutex<bool>,
    is_up: Mutex<bool>,
    pairs: Mutex<Vec<(&'static str, Ed25519KeyPair)>>,
}

fn pair(version: &'static str) -> (&'static str, Ed25519KeyPair) {
    let document = Ed25519KeyPair::generate();
    (version, Ed25519KeyPair::from_der(&document, version.to_owned()).unwrap())
}

impl Other {
    fn public(&self, version: &str) -> String {
        let pairs = self.pairs.lock().unwrap();
        let (_, pair) = pairs.iter().find(|(name, _)| *name == version).unwrap();
        base64(&pair.public_key())
    }

    fn page(&self) -> String {
        let shown = self.keys.lock().unwrap().clone();
        let keys: serde_json::Map<_, _> = shown
            .iter()
            .map(|version| (format!("ed25519:{version}"), json!({ "key": self.public(version) })))
            .collect();
        let page = json!({
            "server_name": "b.example",
            "verify_keys": keys,
            "old_verify_keys": {},
            "valid_until_ts": NOW_MS + 3_600_000,
        });
        let mut page: CanonicalJsonObject = serde_json::from_value(page).unwrap();
        for (version, pair) in &*self.pairs.lock().unwrap() {
            if shown.contains(version) {
                sign_json("b.example", pair, &mut page).unwrap();
            }
        }
        serde_json::to_string(&page).unwrap()
    }
}

#[async_trait]
impl Remote for Other {
    async fn send(
        &self,
        _: &ServerName,
        request: Request<Bytes>,
        _: Limits,
    ) -> Result<Opened, Failure> {
        if !*self.is_up.lock().unwrap() {
            return Err(Failure::Unreachable("invalid peer certificate: Expired".to_owned()));
        }
        let (status, text) = match request.uri().path() {
            "/_matrix/key/v2/server" => (StatusCode::OK, self.page()),
            "/_matrix/federation/v1/version" => {
                let server = json!({ "name": "Synapse", "version": "1.163" });
                (StatusCode::OK, json!({ "server": server }).to_string())
            }
            _ if *self.lets_in.lock().unwrap() => {
                (StatusCode::NOT_FOUND, json!({ "errcode": "NOT_FOUND" }).to_string())
            }
            _ => (StatusCode::FORBIDDEN, json!({ "error": "Federation denied" }).to_string()),
        };
        let now = UNIX_EPOCH + Duration::from_millis(NOW_MS + *self.ahead_ms.lock().unwrap());
        let date = HeaderValue::try_from(httpdate::fmt_http_date(now)).unwrap();
        let headers = HeaderMap::from_iter([(http::header::DATE, date)]);
        let body = Box::pin(stream::iter([Ok(Bytes::from(text))]));
        Ok(Opened { status, headers, body })
    }

    fn look_again(&self, _: &ServerName) {}
}

fn other() -> Arc<Other> {
    Arc::new(Other {
        keys: Mutex::new(vec!["one"]),
        ahead_ms: Mutex::default(),
        lets_in: Mutex::new(true),
        is_up: Mutex::new(true),
        pairs: Mutex::new(vec![pair("one"), pair("two"), pair("three")]),
    })
}

async fn scene() -> (Ward, Arc<Other>) {
    let other = other();
    let ward = Ward::with_peers(Roll::default(), other.clone()).await;
    let pinned = [("ed25519:one".to_owned(), other.public("one"))].into();
    let change = PeerChange { pinned_keys: Some(pinned), ..PeerChange::default() };
    ward.services.peers.describe(server_name!("b.example"), change, "uid 0").await.unwrap();
    (ward, other)
}

/// Asks for a key after the minute in which a server is not asked again.
async fn key(ward: &Ward, version: &str) -> Result<Vec<u8>, Error> {
    ward.clock.pass_ms(ASK_AGAIN_MS);
    let key_id = format!("ed25519:{version}");
    ward.services.peers.key_in_use(server_name!("b.example"), &key_id).await
}

#[tokio::test]
async fn a_new_key_counts_when_a_pinned_one_vouches_for_it_or_the_operator_does() {
    let (ward, other) = scene().await;
    let peers = &ward.services.peers;
    let b = server_name!("b.example");
    assert!(key(&ward, "one").await.is_ok());

    *other.keys.lock().unwrap() = vec!["one", "two"];
    assert!(key(&ward, "two").await.is_ok(), "signed by the pinned one too");
    *other.keys.lock().unwrap() = vec!["two"];
    assert!(key(&ward, "two").await.is_ok(), "the old key is retired; its word still counts");

    *other.keys.lock().unwrap() = vec!["three"];
    assert!(key(&ward, "three").await.is_err(), "nobody vouches for it");
    let row = peers.known_keys(b).await.unwrap().unwrap();
    let waiting = row.unapproved.clone().unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(waiting[0].key_id, "ed25519:three");
    assert!(row.keys.iter().all(|key| key.key_id != "ed25519:three"));
    assert!(key(&ward, "two").await.is_ok(), "what counted before still does");

    let unknown = peers.approve_key(b, "ed25519:four", "uid 0").await.unwrap_err();
    assert_eq!(unknown.kind, Kind::NotFound);
    let row = peers.approve_key(b, "ed25519:three", "uid 0").await.unwrap().unwrap();
    assert!(row.unapproved.is_none());
    assert!(key(&ward, "three").await.is_ok());
    assert!(key(&ward, "two").await.is_err(), "it is no longer shown");
    let facts = ward.audit().await;
    assert!(facts.iter().any(|fact| fact.contains("peer.key_approved")), "{facts:?}");
}

/// Another key under the pinned one's name is another key.
#[tokio::test]
async fn a_key_that_borrows_a_pinned_name_does_not_count() {
    let (ward, other) = scene().await;
    let thief = PeerChange {
        pinned_keys: Some([("ed25519:one".to_owned(), other.public("two"))].into()),
        ..PeerChange::default()
    };
    let b = server_name!("b.example");
    ward.services.peers.describe(b, thief, "uid 0").await.unwrap();
    assert!(key(&ward, "one").await.is_err());
    let told = ward.services.peers.tell_keys(vec![(b.to_owned(), 0)]).await.unwrap();
    assert!(told.is_empty(), "what does not count is not passed on");
}

/// A server that nobody pinned, and that has two keys of one name: one for us, one for others, or one
/// yesterday and one today.
#[tokio::test]
async fn a_name_of_a_key_means_one_key() {
    let other = other();
    let b = server_name!("b.example");
    let ward = Ward::with_peers(Roll::of([b.to_owned()]), other.clone()).await;
    let peers = &ward.services.peers;
    let first = key(&ward, "one").await.unwrap();

    other.pairs.lock().unwrap()[0] = pair("one");
    let second = other.public("one");
    for hour in 0..50 {
        // The day comes when what it said of its first key has run out.
        let now = key(&ward, "one").await;
        assert!(now.is_ok_and(|now| now == first) || hour > 0, "the first still counts");
        ward.clock.pass_ms(3_600_000);
        assert!(key(&ward, "two").await.is_err());
    }
    let row = peers.known_keys(b).await.unwrap().unwrap();
    assert_eq!(row.keys.len(), 1, "what it shows does not pile up: {:?}", row.keys);
    assert_eq!(row.keys[0].public, first);
    let signed_then = [(b.to_owned(), vec!["ed25519:one".to_owned()], Some(NOW_MS))];
    let map = peers.public_keys(signed_then.to_vec()).await.unwrap();
    assert_eq!(map["b.example"]["ed25519:one"].as_bytes(), first, "what was signed stays true");
    let alarms = peers.alarms.all();
    assert_eq!(alarms.keys().collect::<Vec<_>>(), ["peers.other_keys b.example"]);

    assert_eq!(row.unapproved.unwrap().len(), 1);
    ward.clock.pass_ms(ASK_AGAIN_MS);
    let row = peers.approve_key(b, "ed25519:one", "uid 0").await.unwrap().unwrap();
    assert_eq!(base64(&row.keys[0].public), second, "the administrator has asked");
}

fn wrong(check: &PeerCheck) -> Vec<&str> {
    check.findings.iter().filter(|one| !one.is_good).map(|one| &*one.sentence).collect()
}

#[tokio::test]
async fn a_check_says_in_sentences_what_is_wrong() {
    let (ward, other) = scene().await;
    let peers = &ward.services.peers;
    let b = server_name!("b.example");
    let check = peers.check(b).await.unwrap();
    assert_eq!(wrong(&check), <[&str; 0]>::default());
    assert_eq!(check.findings.len(), 5, "{:?}", check.findings);
    assert_eq!(check.version, Some(("Synapse".to_owned(), "1.163".to_owned())));

    *other.ahead_ms.lock().unwrap() = 90_000;
    *other.lets_in.lock().unwrap() = false;
    *other.keys.lock().unwrap() = vec!["two"];
    let check = peers.check(b).await.unwrap();
    assert_eq!(check.skew_ms, Some(90_000));
    let said = wrong(&check);
    assert_eq!(said.len(), 3, "{said:?}");
    assert!(said[0].starts_with("Its clock is 90 seconds ahead of this one."), "{}", said[0]);
    assert!(said[1].contains("peers approve-key b.example"), "{}", said[1]);
    assert!(said[2].contains("does not let this server in"), "{}", said[2]);
    assert!(said[2].contains("Federation denied"), "{}", said[2]);

    *other.is_up.lock().unwrap() = false;
    let said = peers.check(b).await.unwrap();
    assert!(wrong(&said)[0].contains("TLS does not trust it"), "{said:?}");
    let suspended = PeerChange { suspended: Some(true), ..PeerChange::default() };
    peers.describe(b, suspended, "uid 0").await.unwrap();
    let said = peers.check(b).await.unwrap();
    assert!(wrong(&said)[0].contains("peers resume b.example"), "{said:?}");
    let said = peers.check(server_name!("c.example")).await.unwrap();
    assert!(wrong(&said)[0].contains("not on the list"), "{said:?}");
}
