//! Whose certificates are believed: the authorities of the operating system, and those that the
//! operator adds. No list is compiled in: a hospital that takes an authority away from its machines
//! takes it away from this server too.

use std::path::Path;
use std::sync::Arc;

use ::aws_lc_rs::digest::{SHA256, digest};
use appliance_services::peers::Pins;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// Whose certificates are believed, and how TLS is spoken.
#[derive(Clone, Debug)]
pub struct Trust {
    roots: Arc<RootCertStore>,
    usual: Arc<ClientConfig>,
    own: Option<OwnCertificate>,
}

/// The certificate of this server for those peers that are to see one.
pub type OwnCertificate = Arc<dyn ResolvesClientCert>;

/// Reads whose certificates are believed.
///
/// # Errors
///
/// A sentence: the operator's file cannot be read, or holds no certificate.
pub fn trust(extra_ca_file: Option<&Path>, own: Option<OwnCertificate>) -> Result<Trust, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    let (taken, _) = roots.add_parsable_certificates(native.certs);
    if let Some(file) = extra_ca_file {
        add_file(&mut roots, file)?;
    }
    if taken == 0 {
        tracing::warn!(
            kind = "egress.no_authorities",
            "the operating system names no certificate authorities (Debian: ca-certificates); only \
             those of `federation.extra_ca_file` are believed"
        );
    }
    let roots = Arc::new(roots);
    let usual = Arc::new(config(&roots, &[], None)?);
    Ok(Trust { roots, usual, own })
}

impl Trust {
    /// How TLS is spoken with those of whom nothing is pinned, and otherwise with this one. What is
    /// pinned has a memory of sessions of its own: a session that was begun under other pins is not
    /// resumed.
    ///
    /// # Errors
    ///
    /// The pinned authorities make no sense; there is no certificate to show.
    pub fn config(&self, pins: Option<&Pins>) -> Result<Arc<ClientConfig>, String> {
        let Some(pins) = pins else { return Ok(self.usual.clone()) };
        let roots = match &pins.authorities {
            Some(pem) => Arc::new(authorities(pem)?),
            None => self.roots.clone(),
        };
        let own = match (pins.shows_own, &self.own) {
            (false, _) => None,
            (true, Some(own)) => Some(own.clone()),
            (true, None) => {
                return Err("it is to be shown this server's certificate, and \
                            `federation.client_certificate_file` names none"
                    .to_owned());
            }
        };
        Ok(Arc::new(config(&roots, &pins.keys, own)?))
    }
}

/// Reads authorities from PEM.
///
/// # Errors
///
/// A sentence: it is no PEM, or holds no certificate.
pub fn authorities(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("no certificate in PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("no usable certificate: {error}"))?;
    }
    if roots.is_empty() {
        return Err("no certificate in PEM".to_owned());
    }
    Ok(roots)
}

fn config(
    roots: &Arc<RootCertStore>,
    keys: &[Vec<u8>],
    own: Option<OwnCertificate>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?;
    let builder = if keys.is_empty() {
        builder.with_root_certificates(roots.clone())
    } else {
        let usual = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider);
        let usual = usual.build().map_err(|error| format!("TLS: {error}"))?;
        let pinned = Arc::new(Pinned { usual, keys: keys.to_vec() });
        // Nothing is believed that would not be believed otherwise: `Pinned` only believes less.
        builder.dangerous().with_custom_certificate_verifier(pinned)
    };
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Believes what is believed otherwise, if the certificate has one of these keys.
#[derive(Debug)]
struct Pinned {
    usual: Arc<WebPkiServerVerifier>,
    keys: Vec<Vec<u8>>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let key = digest(&SHA256, &parsed.subject_public_key_info());
        if !self.keys.iter().any(|pinned| pinned == key.as_ref()) {
            let hex: String = key.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            return Err(rustls::Error::General(format!(
                "the key of its certificate, sha256:{hex}, is none of those pinned"
            )));
        }
        self.usual.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), String> {
    let wrong = |error: &dyn std::fmt::Display| {
        format!("`federation.extra_ca_file`: {}: {error}", file.display())
    };
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| wrong(&error))?;
    let mut count = 0;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
        count += 1;
    }
    if count == 0 {
        return Err(wrong(&"no certificate in it"));
    }
    Ok(())
}
