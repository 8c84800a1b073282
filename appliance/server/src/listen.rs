//! Accepting connections: who may come in, how many, and for how long.
//!
//! Each connection passes four doors: the caps ([`caps`]), the TLS handshake with its time limit
//! ([`tls`]), hyper with small buffers, and the watch over silence ([`connection`]). What a request
//! then meets is a [`Router`]; nothing here knows what it does.

pub mod caps;
pub mod connection;
pub mod peer;
pub mod tls;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;

use crate::lifecycle::Tasks;
use crate::net::{Peer, Socket, Stream};
use caps::{Caps, Seat};
use connection::{Connection, Timeouts};
use tls::TlsDoor;

/// What the listeners of one server share.
#[derive(Clone)]
pub struct House {
    /// Where connections are spawned and when they must end.
    pub tasks: Tasks,
    /// How long each part may take.
    pub timeouts: Timeouts,
    /// Whose `X-Forwarded-For` is believed.
    pub proxies: Arc<connection::TrustedProxies>,
}

/// One listener: a socket, perhaps TLS, and what is served there.
pub struct Listener {
    /// For logs and metrics: `client`, `federation`, `metrics`, `admin`.
    pub name: &'static str,
    /// How many connections may be open; some listeners share.
    pub caps: Arc<Caps>,
    /// Where connections come from.
    pub socket: Socket,
    /// The certificate, if this listener speaks TLS.
    pub tls: Option<TlsDoor>,
    /// What is served.
    pub router: Router,
}

/// After `accept` failed (usually: no file descriptors left), others need time to close theirs.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the server stops accepting.
pub async fn accept(house: House, listener: Listener) {
    let Listener { name, caps, socket, tls, router } = listener;
    let soft = house.tasks.soft().clone();
    while let Some(accepted) = soft.run_until_cancelled(socket.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let Some(seat) = caps.take(peer, house.proxies.trusts(peer)) else {
                    metrics::counter!("wardstone_connections_refused_total", "listener" => name)
                        .increment(1);
                    continue;
                };
                let work = serve(house.clone(), stream, peer, seat, tls.clone(), router.clone());
                house.tasks.spawn_request(work);
            }
            Err(error) if is_peers_fault(&error) => {}
            Err(error) => {
                tracing::warn!(kind = "listener.accept_failed", listener = name, %error,
                    "cannot accept a connection; trying again");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The peer went away between its SYN and our `accept`.
fn is_peers_fault(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}

/// One connection, from accept to close. Holds its seat all the while.
async fn serve(
    house: House,
    stream: Stream,
    peer: Peer,
    seat: Seat,
    tls: Option<TlsDoor>,
    router: Router,
) {
    let mut connection = Connection {
        peer,
        certificate: None,
        router,
        tasks: house.tasks.clone(),
        timeouts: house.timeouts.clone(),
        proxies: house.proxies.clone(),
    };
    // Each in a box of its own: a connection takes the room of what it is doing, not of everything
    // that it could do.
    match tls {
        None => Box::pin(connection.serve(stream, false)).await,
        Some(door) => match Box::pin(door.open(stream, house.timeouts.handshake)).await {
            Ok(stream) => {
                connection.certificate = peer::shown(stream.get_ref().1.peer_certificates());
                Box::pin(connection.serve(stream, true)).await;
            }
            Err(error) => {
                metrics::counter!("wardstone_tls_handshakes_failed_total").increment(1);
                tracing::debug!(%error, peer = %peer.ip(), "TLS handshake failed");
            }
        },
    }
    drop(seat);
}
