//! From a name to a connection: resolve once, judge each address, connect to the judged one.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use appliance_model::Clock;
use appliance_services::egress::Purpose;
use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName as TlsName;
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::Service;

use crate::judge::Terms;
use crate::seen::SeenList;

/// DNS, TCP and TLS of one attempt. A peer that takes longer is down.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Addresses of one name that are tried, the first ones.
const ADDRESSES_MAX: usize = 4;

/// What it takes to connect to one destination.
#[derive(Clone)]
pub struct Connector {
    pub purpose: Purpose,
    pub terms: Terms,
    /// A name or an address.
    pub host: String,
    pub port: u16,
    /// Whom the certificate must name; none: no TLS.
    pub tls: Option<(TlsName<'static>, Arc<ClientConfig>)>,
    pub seen: Arc<SeenList>,
    pub clock: Arc<dyn Clock>,
}

/// Says in an error chain that it was the gate that refused.
#[derive(Debug)]
pub struct NotAllowed(pub String);

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAllowed {}

impl Connector {
    async fn connect(self) -> io::Result<Stream> {
        match tokio::time::timeout(CONNECT_MAX, self.connect_in_time()).await {
            Ok(connected) => connected,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    async fn connect_in_time(self) -> io::Result<Stream> {
        let addresses = self.addresses().await?;
        let mut last: io::Error = io::ErrorKind::AddrNotAvailable.into();
        for address in addresses {
            // The others get their turn before the time is over.
            let patience = CONNECT_MAX / 3;
            match tokio::time::timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => return self.secure(tcp, address).await,
                Ok(Err(error)) => last = error,
                Err(_) => last = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(last)
    }

    /// The addresses of the host that may be connected to. The system is asked, not DNS alone: names
    /// in `/etc/hosts` and in the directory of the house count here as everywhere on the machine.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let literal = self.host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let found: Vec<SocketAddr> = match literal {
            Ok(address) => vec![SocketAddr::new(address, self.port)],
            Err(_) => lookup_host((self.host.as_str(), self.port)).await?.collect(),
        };
        let mut allowed = found.clone();
        allowed.retain(|address| self.terms.allow(address.ip()));
        allowed.truncate(ADDRESSES_MAX);
        if allowed.is_empty() && !found.is_empty() {
            let why = format!(
                "{} is at {}, inside a network that is not public and not among `egress.networks`",
                self.host,
                found[0].ip()
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, NotAllowed(why)));
        }
        Ok(allowed)
    }

    async fn secure(self, tcp: TcpStream, address: SocketAddr) -> io::Result<Stream> {
        let host = format!("{}:{}", self.host, self.port);
        self.seen.connected(&self.purpose, &host, address, self.clock.now_ms());
        // Requests are small and somebody waits for the answer.
        tcp.set_nodelay(true)?;
        let Some((name, config)) = self.tls else { return Ok(Stream::Plain(TokioIo::new(tcp))) };
        let tls = TlsConnector::from(config).connect(name, tcp).await?;
        Ok(Stream::Tls(TokioIo::new(Box::new(tls))))
    }
}

impl Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// The URI says nothing new: this connector has one destination.
    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().connect())
    }
}

/// A connection.
pub enum Stream {
    Plain(TokioIo<TcpStream>),
    Tls(TokioIo<Box<TlsStream<TcpStream>>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(tls) if tls.inner().get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
