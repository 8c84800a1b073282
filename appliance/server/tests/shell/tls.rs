//! Handshakes, and certificates that change while the server runs.

use std::net::SocketAddr;
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

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

fn handshake(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> Result<StreamOwned<ClientConnection, std::net::TcpStream>, std::io::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
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
    use std::io::Write;
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
