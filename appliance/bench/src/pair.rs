//! Two servers of one kind that exchange rooms over TLS on loopback. Both are called `localhost`, each
//! with the port of a line in front of it, which can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::authority::certify;
use crate::measure::Meter;
use crate::server::{Peer, Server, free_address};
use crate::site::Site;

/// The servers and what is between them.
pub(crate) struct Pair {
    pub(crate) one: Server,
    pub(crate) other: Server,
    /// The first one's name.
    name: String,
    line: Arc<Line>,
    /// Carries bytes as long as the pair lives.
    _carriers: JoinSet<()>,
    _tls: tempfile::TempDir,
}

#[derive(Default)]
struct Line {
    is_cut: AtomicBool,
    breaks: Notify,
}

impl Pair {
    /// Starts two servers of the kind of `model`, beside it.
    pub(crate) async fn open(model: &Server) -> Result<Self> {
        let tls = tempfile::tempdir().context("a folder for certificates")?;
        certify(tls.path()).context("make certificates")?;
        let line = Arc::new(Line::default());
        let mut carriers = JoinSet::new();
        let (mut servers, mut names) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (address, name) = (free_address()?, free_address()?);
            let listener = TcpListener::bind(name).await.context("listen for other servers")?;
            carriers.spawn(carry(listener, address, Arc::clone(&line)));
            let name = format!("localhost:{}", name.port());
            names.push(name.clone());
            let peer = Peer { name, address, tls: tls.path().to_owned() };
            let mut server = model.like_it(&peer)?;
            server.start().await?;
            servers.push(server);
        }
        let other = servers.pop().context("two servers")?;
        let one = servers.pop().context("two servers")?;
        let name = names.swap_remove(0);
        Ok(Self { one, other, name, line, _carriers: carriers, _tls: tls })
    }

    /// What the second calls the first.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The people of both.
    pub(crate) fn sites(&self) -> (Arc<Site>, Arc<Site>) {
        (Arc::clone(&self.one.site), Arc::clone(&self.other.site))
    }

    /// Measures both together.
    pub(crate) fn meter(&self) -> Meter {
        Meter::of(vec![self.one.site.pid(), self.other.site.pid()])
    }

    /// Cuts the line, or mends it.
    pub(crate) fn cut(&self, is_cut: bool) {
        self.line.is_cut.store(is_cut, Ordering::Relaxed);
        if is_cut {
            self.line.breaks.notify_waiters();
        }
    }

    /// Stops both.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.one.stop().await?;
        self.other.stop().await
    }
}

/// Takes connections and carries them on to where the server listens.
async fn carry(listener: TcpListener, address: SocketAddr, line: Arc<Line>) {
    let mut connections = JoinSet::new();
    while let Ok((mut near, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        if line.is_cut.load(Ordering::Relaxed) {
            continue;
        }
        let line = Arc::clone(&line);
        connections.spawn(async move {
            let broken = line.breaks.notified();
            let Ok(mut far) = TcpStream::connect(address).await else { return };
            // The bench adds no delay of its own.
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                () = broken => {}
            }
        });
    }
}
