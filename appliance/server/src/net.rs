//! The one place that names `tokio::net`: addresses, listening sockets, streams.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// Connections the kernel holds while we are busy; enough for a shift change after a restart.
const BACKLOG: i32 = 1_024;

/// Where to listen or what to call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `host:port`, as `127.0.0.1:8008` or `[::]:443`.
    Tcp(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
    /// `systemd:NAME`: the socket that systemd opened as `FileDescriptorName=NAME`.
    Systemd(String),
}

impl Address {
    /// Whether only this machine can reach it. A socket from systemd is judged when it is there.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
            Self::Systemd(_) => false,
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match Path::new(path) {
                path if path.is_absolute() => Ok(Self::Unix(path.into())),
                _ => Err(format!("\"{text}\": a Unix socket needs an absolute path")),
            };
        }
        if let Some(name) = text.strip_prefix("systemd:") {
            return Ok(Self::Systemd(name.into()));
        }
        let text_or_localhost = match text.strip_prefix("localhost:") {
            Some(port) => format!("127.0.0.1:{port}"),
            None => text.to_owned(),
        };
        text_or_localhost.parse().map(Self::Tcp).map_err(|_| {
            format!(
                "\"{text}\" is not an address; write an IP address and a port (\"127.0.0.1:8008\", \
                 \"[::]:443\"), \"unix:/path/to.sock\" or \"systemd:NAME\""
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Over TCP.
    Ip(SocketAddr),
    /// Over a Unix socket, with the user the kernel vouches for.
    Unix {
        /// The user that connected.
        uid: u32,
    },
}

impl Peer {
    /// The address to count and to show; a Unix socket counts as loopback.
    pub fn ip(&self) -> IpAddr {
        match self {
            Self::Ip(address) => address.ip().to_canonical(),
            Self::Unix { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

/// A socket that accepts.
pub struct Socket {
    kind: SocketKind,
    /// The address as bound; the port is real even if 0 was asked for.
    pub address: Address,
}

enum SocketKind {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: Option<SocketFile> },
}

/// A Unix socket's file, removed when the socket goes.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Nothing to do about a file that cannot be removed: the next start replaces it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Socket {
    /// Opens a socket; `unix_mode` is the mode of a Unix socket's file.
    ///
    /// # Errors
    ///
    /// Those of the operating system. A Unix socket file that nobody listens on is replaced; one
    /// that somebody listens on is [`io::ErrorKind::AddrInUse`].
    pub fn bind(address: &Address, unix_mode: u32) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => Self::bind_tcp(*address),
            Address::Unix(path) => Self::bind_unix(path, unix_mode),
            Address::Systemd(name) => Self::from_systemd(name),
        }
    }

    /// The socket that systemd opened under `name` and passed to this process
    /// (sd_listen_fds(3)): connections queue in it while the server restarts.
    fn from_systemd(name: &str) -> io::Result<Self> {
        let missing = || {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!(
                    "systemd passed no socket of that name; a .socket unit needs \
                     FileDescriptorName={name}"
                ),
            )
        };
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let index = names.split(':').position(|known| known == name).ok_or_else(missing)?;
        let mut passed = listenfd::ListenFd::from_env();
        if let Ok(listener) = passed.take_tcp_listener(index) {
            let listener = listener.ok_or_else(missing)?;
            listener.set_nonblocking(true)?;
            let listener = TcpListener::from_std(listener)?;
            let address = Address::Tcp(listener.local_addr()?);
            return Ok(Self { kind: SocketKind::Tcp(listener), address });
        }
        let listener = passed.take_unix_listener(index)?.ok_or_else(missing)?;
        listener.set_nonblocking(true)?;
        let path = listener.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
        let listener = UnixListener::from_std(listener)?;
        // The file is systemd's; it outlives us.
        let kind = SocketKind::Unix { listener, _file: None };
        Ok(Self { kind, address: Address::Unix(path) })
    }

    fn bind_tcp(address: SocketAddr) -> io::Result<Self> {
        use socket2::{Domain, Protocol, Socket, Type};
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the old connections' TIME_WAIT.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from_std(socket.into())?;
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Self { kind: SocketKind::Tcp(listener), address })
    }

    fn bind_unix(path: &Path, mode: u32) -> io::Result<Self> {
        remove_stale_socket(path)?;
        let listener = UnixListener::bind(path)?;
        let file = Some(SocketFile(path.to_owned()));
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self {
            kind: SocketKind::Unix { listener, _file: file },
            address: Address::Unix(path.into()),
        })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`: the socket stays usable; wait a little before trying again.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.kind {
            SocketKind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are small and people wait for them.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Peer::Ip(address)))
            }
            SocketKind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                Ok((Stream::Unix(stream), Peer::Unix { uid }))
            }
        }
    }
}

/// A socket file that refuses connections was left by a process that died; others are in use.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return Ok(()) };
    if !metadata.file_type().is_socket() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} exists and is not a socket", path.display()),
        ));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another process listens on {}", path.display()),
        )),
        Err(_) => std::fs::remove_file(path),
    }
}

/// A connected stream of bytes.
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Connects to a Unix socket.
    ///
    /// # Errors
    ///
    /// Those of `connect(2)`.
    pub async fn connect_unix(path: &Path) -> io::Result<Self> {
        UnixStream::connect(path).await.map(Self::Unix)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_written() {
        for text in ["127.0.0.1:8008", "[::]:443", "unix:/run/w.sock", "systemd:client"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in ["hospital.example:443", "443", "", "unix:w.sock", "127.0.0.1"] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_unix_are_local() {
        let local = |text: &str| text.parse::<Address>().unwrap().is_local();
        assert!(local("127.0.0.1:1") && local("[::1]:1") && local("unix:/s"));
        assert!(local("localhost:1") && local("[::ffff:127.0.0.1]:1"));
        assert!(!local("0.0.0.0:1") && !local("[::]:1") && !local("10.0.0.1:1"));
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_process_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::Unix(dir.path().join("s"));
        let first = Socket::bind(&address, 0o600).unwrap();
        let error = Socket::bind(&address, 0o600).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!dir.path().join("s").exists(), "the file goes with the socket");

        drop(std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap());
        assert!(dir.path().join("s").exists(), "as after kill -9");
        Socket::bind(&address, 0o600).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s"), "keep me").unwrap();
        assert!(Socket::bind(&Address::Unix(dir.path().join("s")), 0o600).is_err());
        assert_eq!(std::fs::read(dir.path().join("s")).unwrap(), b"keep me");
    }
}
