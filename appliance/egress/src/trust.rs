//! Whose certificates are believed: the authorities of the operating system, and those that the
//! operator adds. No list is compiled in: a hospital that takes an authority away from its machines
//! takes it away from this server too.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The TLS configuration of connections to others.
///
/// # Errors
///
/// A sentence: the operator's file cannot be read, or holds no certificate.
pub fn trust(extra_ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
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
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
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
