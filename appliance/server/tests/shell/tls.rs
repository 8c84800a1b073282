//! Handshakes, and certificates that change while the server runs.

use std::net::SocketAddr;
use std::sync::Arc;

use std::io::Write;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use serde_json::{Value, json};

use crate::world::{Folder, Server, connect, read_answer};

/// A self-signed certificate for localhost, in `tls/`; returns what a client must trust.
fn new_certificate(folder: &Folder) -> CertificateDer<'static> {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    folder.write("tls/key.pem", &key.serialize_pem());
    folder.write("tls/cert.pem", &certificate.pem());
    certificate.der().clone()
}

fn folder_with_tls() -> (Folder, CertificateDer<'static>) {
    let folder = Folder::new(
        "[[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:0\"\ntls = { certificate_file = \
         \"tls/cert.pem\", key_file = \"tls/key.pem\" }\n",
    );
    // Paths are relative to wardstone.toml, not to conf.d.
    let certificate = new_certificate(&folder);
    (folder, certificate)
}

type Stream = StreamOwned<ClientConnection, std::net::TcpStream>;

fn handshake(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Result<Stream, std::io::Error> {
    handshake_as(address, trusted, (versions, alpn), None)
}

/// A certificate, and the key of whoever shows it.
type Shown = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn handshake_as(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    (versions, alpn): (&[&'static SupportedProtocolVersion], &[&str]),
    shown: Option<Shown>,
) -> Result<Stream, std::io::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some((shown, key)) => config.with_client_auth_cert(vec![shown], key).unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = connect(address);
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

fn is_trusted(server: &Server, certificate: &CertificateDer<'static>) -> bool {
    handshake(server.client(), certificate, &[&TLS13], &[]).is_ok()
}

#[test]
fn tls_1_2_and_1_3_with_http_1_1_and_2() {
    let (folder, certificate) = folder_with_tls();
    let server = folder.start();
    for version in [&TLS12, &TLS13] {
        let alpn = ["h2", "http/1.1"];
        let stream = handshake(server.client(), &certificate, &[version], &alpn).unwrap();
        assert_eq!(stream.conn.alpn_protocol(), Some(&b"h2"[..]));
        assert_eq!(stream.conn.protocol_version(), Some(version.version));
    }
    let mut stream = handshake(server.client(), &certificate, &[&TLS13], &["http/1.1"]).unwrap();
    assert_eq!(stream.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    stream.write_all(b"GET /_wardstone/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert_eq!(read_answer(&mut stream).body, "live");
}

#[test]
fn a_new_certificate_is_served_on_sighup_and_a_bad_one_is_not() {
    let (folder, first) = folder_with_tls();
    let mut server = folder.start();
    assert!(is_trusted(&server, &first));

    let second = new_certificate(&server.folder);
    server.signal("HUP");
    server.wait_for("tls.reloaded");
    assert!(is_trusted(&server, &second));
    assert!(!is_trusted(&server, &first));

    server.folder.write("tls/cert.pem", "-----BEGIN CERTIFICATE-----\nbroken");
    server.signal("HUP");
    let refused = server.wait_for("tls.refused");
    assert!(refused["reason"].as_str().unwrap().contains("cert.pem"), "{refused}");
    assert!(is_trusted(&server, &second), "the old certificate stays");
}

#[test]
fn a_new_certificate_is_served_when_its_files_change() {
    let (folder, _) = folder_with_tls();
    let mut server = folder.start();
    let second = new_certificate(&server.folder);
    // Between the two files there may be a look at half of the pair.
    server.wait_for("tls.reloaded");
    assert!(is_trusted(&server, &second));
}

/// An authority of devices.
struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

fn device_of(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Shown {
    let mut params = CertificateParams::new(vec!["tablet-7".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &authority.issuer).unwrap();
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
}

fn ask(stream: &mut Stream, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Wardstone-Page: 1\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).unwrap();
    read_answer(stream).body
}

/// Browsers are asked for a certificate where people sign in for apps; everybody comes in, and only a good one of
/// the house's own devices makes a session managed.
#[test]
fn the_sign_in_page_is_for_everybody_and_a_device_s_certificate_is_known_there() {
    let (ours, other) = (authority("Our devices"), authority("Other devices"));
    let tls = "certificate_file = \"tls/cert.pem\", key_file = \"tls/key.pem\"";
    let folder = Folder::new(&format!(
        "[server]\nsign_in_url = \"https://localhost\"\npublic_base_url = \"https://localhost:8443\"\n\
         [sessions]\napp_hosts = [\"app.example\"]\n\
         [[listeners]]\nkind = \"client\"\naddress = \"127.0.0.1:0\"\ntls = {{ {tls} }}\n\
         [[listeners]]\nkind = \"sign_in\"\naddress = \"127.0.0.1:0\"\n\
         tls = {{ {tls}, client_ca_file = \"tls/devices.pem\" }}\n"
    ));
    let trusted = new_certificate(&folder);
    folder.write("tls/devices.pem", &ours.pem);
    let server = folder.start();
    let opened =
        |address, shown| handshake_as(address, &trusted, (&[&TLS13], &["http/1.1"]), shown);

    let app = json!({
        "client_uri": "https://app.example", "redirect_uris": ["https://app.example/back"],
        "grant_types": ["authorization_code", "refresh_token"], "token_endpoint_auth_method": "none",
    });
    let path = "/_matrix/client/unstable/io.wardstone/oauth/register";
    let registered = ask(&mut opened(server.client(), None).unwrap(), path, &app.to_string());
    let registered: Value = serde_json::from_str(&registered).unwrap();
    let query = format!(
        "client_id={}&redirect_uri=https://app.example/back&response_type=code&code_challenge_method=S256&\
         code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&\
         scope=urn:matrix:client:api:*%20urn:matrix:client:device:ABC",
        registered["client_id"].as_str().unwrap()
    );
    let over = |params: &mut CertificateParams| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    };
    let for_servers = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    for (what, shown, class) in [
        ("one of ours", Some(device_of(&ours, |_| {})), "managed"),
        ("none", None, "unmanaged"),
        ("another's", Some(device_of(&other, |_| {})), "unmanaged"),
        ("one that is over", Some(device_of(&ours, over)), "unmanaged"),
        ("one of a server", Some(device_of(&ours, for_servers)), "unmanaged"),
    ] {
        let mut stream = opened(server.sign_in(), shown).unwrap();
        let answer: Value =
            serde_json::from_str(&ask(&mut stream, "/authorize/app", &query)).unwrap();
        assert_eq!(answer["device"], class, "{what}: {answer}");
    }
}
