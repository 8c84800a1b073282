//! A list, its signer, and everything that is not the list.

use std::sync::Mutex;

use appliance_model::ruma::server_name;
use async_trait::async_trait;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, RSA_PSS_SHA256, RsaKeyPair,
};
use futures_util::stream;
use http::StatusCode;
use serde_json::{Value, json};

use super::*;
use crate::egress::{Destination, Egress, Failure, Opened, ServiceRecord};
use crate::peers::Standing;
use crate::scenario::{Ward, options};

const HOUR_MS: u64 = 60 * 60 * 1_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Whoever signs lists, and the place where they are.
enum Signer {
    Ecdsa(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    fn of(algorithm: ListAlgorithm) -> Self {
        match algorithm {
            ListAlgorithm::Es256 => {
                Self::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
            }
            ListAlgorithm::Es384 => {
                Self::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap())
            }
            ListAlgorithm::EdDsa => Self::Ed(Ed25519KeyPair::generate().unwrap()),
            ListAlgorithm::Ps256 => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        }
    }

    fn public(&self) -> Vec<u8> {
        match self {
            Self::Ecdsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap().as_ref().to_vec(),
        }
    }

    fn sign(&self, bytes: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ecdsa(pair) => pair.sign(&random, bytes).unwrap().as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PSS_SHA256, &random, bytes, &mut signature).unwrap();
                signature
            }
        }
    }

    fn jws(&self, header: &Value, payload: &Value) -> Vec<u8> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}\n").into_bytes()
    }

    fn list(&self, algorithm: ListAlgorithm, version: u64, domains: &[&str]) -> Vec<u8> {
        self.jws(&json!({ "alg": algorithm.name() }), &payload(version, domains))
    }
}

fn payload(version: u64, domains: &[&str]) -> Value {
    let entry =
        |domain: &&str| json!({ "domain": domain, "telematikID": "1", "isInsurance": false });
    json!({ "version": version, "domainList": domains.iter().map(entry).collect::<Vec<_>>() })
}

/// What lies at the URL now.
#[derive(Default)]
struct Page {
    jws: Mutex<Option<Vec<u8>>>,
    asked: Mutex<usize>,
}

#[async_trait]
impl Egress for Page {
    async fn open(&self, request: Outgoing) -> Result<Opened, Failure> {
        assert_eq!(request.purpose, Purpose::FederationList);
        *self.asked.lock().unwrap() += 1;
        let Some(jws) = self.jws.lock().unwrap().clone() else { return Err(Failure::TimedOut) };
        let body = Box::pin(stream::iter([Ok(Bytes::from(jws))]));
        Ok(Opened { status: StatusCode::OK, headers: HeaderMap::new(), body })
    }

    async fn find_services(&self, _: &Purpose, _: &str) -> Result<Vec<ServiceRecord>, Failure> {
        Ok(Vec::new())
    }

    fn allow_app_service(&self, _: &Uri) {}

    fn take_seen(&self) -> Vec<Destination> {
        Vec::new()
    }
}

struct Scene {
    ward: Ward,
    page: Arc<Page>,
    signer: Signer,
    algorithm: ListAlgorithm,
}

async fn scene(algorithm: ListAlgorithm) -> Scene {
    let signer = Signer::of(algorithm);
    let page = Arc::new(Page::default());
    let terms = ListTerms {
        source: ListSource::Url(Uri::from_static("https://list.example/list.jws")),
        algorithm,
        key: signer.public(),
        refresh_ms: HOUR_MS,
        keep_ms: 3 * DAY_MS,
    };
    let options = crate::Options { federation_list: Some(Arc::new(terms)), ..options() };
    let ward = Ward::with_options_and_egress(options, page.clone()).await;
    Scene { ward, page, signer, algorithm }
}

impl Scene {
    fn show(&self, jws: Vec<u8>) {
        *self.page.jws.lock().unwrap() = Some(jws);
    }

    fn show_list(&self, version: u64, domains: &[&str]) {
        self.show(self.signer.list(self.algorithm, version, domains));
    }

    /// An hour later, the job looks; what went wrong.
    async fn look(&self) -> Option<String> {
        self.ward.clock.pass_ms(HOUR_MS);
        self.ward.services.peers.refresh_list().await.unwrap();
        self.ward.services.peers.list_report().await.unwrap().unwrap().problem
    }

    fn allows(&self, server: &str) -> bool {
        self.ward.services.house.roll.allows(&ServerName::parse(server).unwrap())
    }
}

#[tokio::test]
async fn a_list_of_every_algorithm_lets_in_who_is_on_it_and_nobody_else() {
    use ListAlgorithm::{EdDsa, Es256, Es384, Ps256};
    for algorithm in [Es256, Es384, EdDsa, Ps256] {
        let scene = scene(algorithm).await;
        scene.show_list(7, &["b.example", "C.example"]);
        assert_eq!(scene.look().await, None, "{algorithm:?}");
        assert!(scene.allows("b.example") && scene.allows("c.example"));
        assert!(!scene.allows("d.example"));
        assert!(!scene.ward.services.house.roll.allows_media(server_name!("b.example")));
        let report = scene.ward.services.peers.list_report().await.unwrap().unwrap();
        assert_eq!((report.version, report.servers), (Some(7), 2));
        let ward = scene.ward.power_cut_and_restart().await;
        ward.services.peers.load().await.unwrap();
        assert!(ward.services.house.roll.allows(server_name!("b.example")), "it is kept");
    }
}

#[tokio::test]
async fn who_was_taken_off_is_out_and_a_record_comes_before_the_list() {
    let scene = scene(ListAlgorithm::Es256).await;
    scene.show_list(1, &["b.example", "c.example"]);
    scene.look().await;
    let suspended = crate::peers::PeerChange { suspended: Some(true), ..Default::default() };
    let c = server_name!("c.example");
    scene.ward.services.peers.describe(c, suspended, "uid 0").await.unwrap();
    assert!(!scene.allows("c.example"));
    scene.show_list(2, &["c.example"]);
    assert_eq!(scene.look().await, None);
    assert!(!scene.allows("b.example") && !scene.allows("c.example"));
}

#[tokio::test]
async fn the_version_never_goes_back_and_is_never_two_lists() {
    let scene = scene(ListAlgorithm::Es256).await;
    scene.show_list(5, &["b.example"]);
    assert_eq!(scene.look().await, None);
    scene.show_list(4, &["b.example", "evil.example"]);
    assert!(scene.look().await.unwrap().contains("version 5 was seen already"));
    scene.show_list(5, &["evil.example"]);
    assert!(scene.look().await.unwrap().contains("two lists of version 5"));
    assert!(!scene.allows("evil.example") && scene.allows("b.example"));
    scene.show_list(5, &["b.example"]);
    assert_eq!(scene.look().await, None, "signed anew, it is the same list");
}

#[tokio::test]
async fn what_is_not_signed_as_the_settings_say_is_not_the_list() {
    let scene = scene(ListAlgorithm::Es256).await;
    let evil = payload(9, &["evil.example"]);
    let other = Signer::of(ListAlgorithm::Es256);
    let good =
        String::from_utf8(scene.signer.list(ListAlgorithm::Es256, 9, &["b.example"])).unwrap();
    let parts: Vec<_> = good.trim().split('.').collect();
    let swapped = URL_SAFE_NO_PAD.encode(evil.to_string());
    let unsigned = URL_SAFE_NO_PAD.encode(json!({ "alg": "none" }).to_string());
    let ours = |header: Value| scene.signer.jws(&header, &evil);
    let cases: [(Vec<u8>, &str); 10] = [
        (other.jws(&json!({ "alg": "ES256" }), &evil), "signature is wrong"),
        (format!("{}.{swapped}.{}", parts[0], parts[2]).into_bytes(), "signature is wrong"),
        (format!("{unsigned}.{swapped}.").into_bytes(), "signed with \"none\""),
        (ours(json!({ "alg": "HS256" })), "signed with \"HS256\""),
        (ours(json!({ "alg": "ES256", "crit": ["b64"] })), "demands what this server does not"),
        (ours(json!({})), "header makes no sense"),
        (format!("{}.{}", parts[0], parts[1]).into_bytes(), "no JSON Web Signature"),
        (format!("{good}.x").into_bytes(), "no JSON Web Signature"),
        (b"\xff\xfe".to_vec(), "no text"),
        (
            scene.signer.jws(&json!({ "alg": "ES256" }), &json!({ "version": "9" })),
            "no federation list",
        ),
    ];
    for (jws, expected) in cases {
        scene.show(jws);
        let problem = scene.look().await.unwrap();
        assert!(problem.contains(expected), "{expected}: {problem}");
        assert!(!scene.allows("evil.example"), "{expected}");
    }
}

/// Nobody can get the list any more. The last good one counts for three days; then nobody does.
#[tokio::test]
async fn a_list_that_is_gone_counts_for_a_while() {
    let scene = scene(ListAlgorithm::EdDsa).await;
    scene.show_list(1, &["b.example"]);
    assert_eq!(scene.look().await, None);
    *scene.page.jws.lock().unwrap() = None;
    assert!(scene.look().await.is_some(), "somebody is told");
    assert!(scene.allows("b.example"), "the last good one counts");
    let second = payload(2, &["b.example"]);
    let mut over = second.clone();
    over["exp"] = 1.into();
    scene.show(scene.signer.jws(&json!({ "alg": "EdDSA" }), &over));
    assert!(scene.look().await.unwrap().contains("over"));
    scene.ward.clock.pass_ms(3 * DAY_MS);
    let roll = &scene.ward.services.house.roll;
    assert_eq!(roll.standing(server_name!("b.example")), Standing::Over);
    scene.show_list(2, &["b.example"]);
    assert_eq!(scene.look().await, None);
    assert!(scene.allows("b.example"));
}

#[tokio::test]
async fn a_stranger_makes_it_look_sooner_but_not_at_every_knock() {
    let scene = scene(ListAlgorithm::EdDsa).await;
    scene.show_list(1, &["b.example"]);
    scene.look().await;
    scene.show_list(2, &["b.example", "new.example"]);
    let peers = &scene.ward.services.peers;
    let asked = || *scene.page.asked.lock().unwrap();
    let before = asked();
    scene.ward.clock.pass_ms(MISSED_AGAIN_MS);
    peers.refresh_list().await.unwrap();
    assert_eq!(asked(), before, "nobody was missed");
    assert!(!scene.allows("new.example"));
    for _ in 0..3 {
        peers.refresh_list().await.unwrap();
    }
    assert_eq!(asked(), before + 1, "once");
    assert!(scene.allows("new.example"));
}

#[tokio::test]
async fn names_may_be_digests() {
    let scene = scene(ListAlgorithm::EdDsa).await;
    let mut list = payload(1, &[&hex(b"b.example")]);
    list["hashAlgorithm"] = "SHA-256".into();
    scene.show(scene.signer.jws(&json!({ "alg": "EdDSA" }), &list));
    assert_eq!(scene.look().await, None);
    assert!(scene.allows("b.example") && !scene.allows("c.example"));
    list["hashAlgorithm"] = "MD5".into();
    scene.show(scene.signer.jws(&json!({ "alg": "EdDSA" }), &list));
    assert!(scene.look().await.unwrap().contains("MD5"));
}
