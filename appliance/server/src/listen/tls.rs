//! TLS: the certificate, its replacement while running, and the handshake.
//!
//! A certificate is read again on SIGHUP and when its files change. A new one that is bad is
//! reported and the old one stays: an expired-tomorrow certificate serves better than none.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::peer;
use crate::net::Stream;
use crate::settings::Tls;

/// A certificate file longer than this is no certificate chain.
const PEM_BYTES_MAX: u64 = 1_048_576;

/// The certificate of one listener, as read last.
pub struct Certificate {
    files: Tls,
    current: RwLock<Arc<CertifiedKey>>,
    seen: RwLock<Stamp>,
}

/// Modification time and length of both files: what tells one version from the next.
type Stamp = [Option<(SystemTime, u64)>; 2];

/// What [`Certificate::reload_if_changed`] did.
#[derive(Debug, PartialEq, Eq)]
pub enum Reload {
    /// The files are those we know.
    Unchanged,
    /// New connections get the new certificate.
    Replaced,
    /// The new files are bad, for the reason given; the old certificate stays.
    Refused(String),
}

impl Certificate {
    /// Reads and checks a certificate and its key.
    ///
    /// # Errors
    ///
    /// A sentence naming the file: not readable, not PEM, or the two do not belong together.
    pub fn read(files: Tls) -> Result<Arc<Self>, String> {
        let seen = stamp(&files);
        let current = read_pair(&files)?;
        Ok(Arc::new(Self { files, current: RwLock::new(current), seen: RwLock::new(seen) }))
    }

    /// The chain and key that new connections get.
    pub fn current(&self) -> Arc<CertifiedKey> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again, and keeps what we have if the new pair is bad.
    pub fn reload(&self) -> Reload {
        let now = stamp(&self.files);
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = now;
        match read_pair(&self.files) {
            Ok(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = pair;
                Reload::Replaced
            }
            Err(reason) => Reload::Refused(reason),
        }
    }

    /// [`Certificate::reload`], if the files are not those read last.
    pub fn reload_if_changed(&self) -> Reload {
        if stamp(&self.files) == *self.seen.read().unwrap_or_else(PoisonError::into_inner) {
            return Reload::Unchanged;
        }
        self.reload()
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("files", &self.files).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Certificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current()).filter(|pair| pair.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn stamp(files: &Tls) -> Stamp {
    [&files.certificate_file, &files.key_file].map(|path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    })
}

fn read_pair(files: &Tls) -> Result<Arc<CertifiedKey>, String> {
    let provider = provider()?;
    let chain = read_chain(&files.certificate_file)?;
    let key = read_key(&files.key_file)?;
    let pair = CertifiedKey::from_der(chain, key, &provider).map_err(|error| {
        format!(
            "{} and {} do not make a pair: {error}",
            files.certificate_file.display(),
            files.key_file.display()
        )
    })?;
    Ok(Arc::new(pair))
}

pub(super) fn provider() -> Result<Arc<CryptoProvider>, String> {
    CryptoProvider::get_default().cloned().ok_or_else(|| "no TLS provider is installed".into())
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read_pem(path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{}: no certificate in this file", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read_pem(path)?)
        .map_err(|error| format!("{}: no private key in this file ({error})", path.display()))
}

fn read_pem(path: &Path) -> Result<Vec<u8>, String> {
    let in_words = |error: io::Error| format!("{}: {error}", path.display());
    if std::fs::metadata(path).map_err(in_words)?.len() > PEM_BYTES_MAX {
        return Err(format!("{}: longer than {PEM_BYTES_MAX} bytes", path.display()));
    }
    std::fs::read(path).map_err(in_words)
}

/// Judges certificates of devices by their authorities, which are read once: a change takes a restart.
fn of_devices(file: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in read_chain(file)? {
        let added = authorities.add(certificate);
        added.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), provider()?)
        .build()
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// The text of a file of authorities.
///
/// # Errors
///
/// A sentence: it cannot be read, or is no text.
pub fn read_authorities(file: &Path) -> Result<String, String> {
    String::from_utf8(read_pem(file)?).map_err(|_| format!("{}: no PEM", file.display()))
}

fn acceptor(
    certificate: Arc<Certificate>,
    judge: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<TlsAcceptor, String> {
    let config = ServerConfig::builder_with_provider(provider()?)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?;
    let config = match judge {
        None => config.with_no_client_auth(),
        Some(judge) => config.with_client_cert_verifier(judge),
    };
    let mut config = config.with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Two tickets for each of thousands of phones are traffic that nobody uses.
    config.send_tls13_tickets = 1;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Where a TCP stream becomes a TLS stream.
#[derive(Clone)]
pub struct TlsDoor {
    acceptor: TlsAcceptor,
    asking: Option<(TlsAcceptor, Asks)>,
}

/// Whether whoever comes now is asked for a certificate.
pub type Asks = Arc<dyn Fn() -> bool + Send + Sync>;

impl TlsDoor {
    /// TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1, and whatever certificate is current. If the settings
    /// name authorities for devices, nobody without a certificate of theirs comes in.
    ///
    /// # Errors
    ///
    /// A sentence: the file of authorities cannot be read or holds none.
    pub fn new(certificate: Arc<Certificate>) -> Result<Self, String> {
        let judge = certificate.files.client_ca_file.as_deref().map(of_devices).transpose()?;
        Ok(Self { acceptor: acceptor(certificate, judge)?, asking: None })
    }

    /// The same for other servers: while `asks` says so they are asked for a certificate, and come in with
    /// any, or none. Which one it must be is judged when they say who they are.
    ///
    /// # Errors
    ///
    /// As [`TlsDoor::new`].
    pub fn for_servers(certificate: Arc<Certificate>, asks: Asks) -> Result<Self, String> {
        let provider = provider()?;
        let any = peer::any_certificate(&provider, Vec::new());
        let asking = acceptor(certificate.clone(), Some(any))?;
        Ok(Self { acceptor: acceptor(certificate, None)?, asking: Some((asking, asks)) })
    }

    /// The same for browsers: if the settings name authorities for devices, they are asked for a certificate
    /// of theirs, and come in with any, or none. What one is worth is judged with the request, so that whoever
    /// has another, or one that is over, meets a page that says something and not a broken connection.
    ///
    /// # Errors
    ///
    /// As [`TlsDoor::new`].
    pub fn for_browsers(certificate: Arc<Certificate>) -> Result<Self, String> {
        let Some(file) = certificate.files.client_ca_file.as_deref() else {
            return Self::new(certificate);
        };
        let authorities = appliance_egress::authorities(&read_authorities(file)?)
            .map_err(|error| format!("{}: {error}", file.display()))?;
        // Browsers offer only what one of these has signed.
        let any = peer::any_certificate(&*provider()?, authorities.subjects());
        Ok(Self { acceptor: acceptor(certificate, Some(any))?, asking: None })
    }

    /// The handshake.
    ///
    /// # Errors
    ///
    /// The peer spoke no acceptable TLS, or took longer than `patience`.
    pub async fn open(&self, stream: Stream, patience: Duration) -> io::Result<TlsStream<Stream>> {
        let acceptor = match &self.asking {
            // Sessions that began without a certificate are not resumed here: each has its own memory.
            Some((asking, asks)) if asks() => asking,
            _ => &self.acceptor,
        };
        match tokio::time::timeout(patience, acceptor.accept(stream)).await {
            Ok(accepted) => accepted,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
