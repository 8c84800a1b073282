//! A server under test: a child process on a free loopback port, its state in a temporary folder.

mod synapse;
mod wardstone;

use std::fmt;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::clock::Stopwatch;
use crate::http::Connection;
use crate::site::Site;

pub(crate) use synapse::VERSION as SYNAPSE_VERSION;

/// Synapse creates its database in the first start; on a busy machine that takes a while.
const START_TIMEOUT: Duration = Duration::from_secs(120);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Ours.
    Wardstone,
    /// The reference, from its package.
    Synapse,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wardstone => "Wardstone",
            Self::Synapse => "Synapse",
        })
    }
}

/// What a server needs to exchange rooms with others.
pub(crate) struct Peer {
    /// Its name, which says where others reach it.
    pub(crate) name: String,
    /// Where it listens for them.
    pub(crate) address: SocketAddr,
    /// The folder of `server.pem`, `server.key` and `ca.pem`.
    pub(crate) tls: PathBuf,
}

/// A server that can be started and stopped, and the people on it.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) site: Arc<Site>,
    /// Program and arguments.
    command: Vec<String>,
    /// What counts as its disk use.
    data: PathBuf,
    /// Removed with everything in it when the server is dropped.
    folder: tempfile::TempDir,
    /// The binary under test, and where temporary folders are made.
    origin: (PathBuf, PathBuf),
    child: Option<Child>,
    /// From the start of the process to its first answer.
    pub(crate) first_answer: Duration,
}

impl Server {
    /// Writes its settings; `binary` is Wardstone, `folder` is where temporary folders are made.
    pub(crate) fn prepare(kind: Kind, binary: &Path, folder: &Path) -> Result<Self> {
        Self::prepare_peer(kind, binary, folder, None)
    }

    /// The same for a server that exchanges rooms with others.
    pub(crate) fn prepare_peer(
        kind: Kind,
        binary: &Path,
        folder: &Path,
        peer: Option<&Peer>,
    ) -> Result<Self> {
        let temporary = tempfile::Builder::new().prefix("server-").tempdir_in(folder)?;
        let address = free_address()?;
        let data = temporary.path().join("data");
        std::fs::create_dir(&data)?;
        let command = match kind {
            Kind::Wardstone => {
                wardstone::prepare(binary, temporary.path(), &data, (address, peer))?
            }
            Kind::Synapse => synapse::prepare(temporary.path(), &data, (address, peer))?,
        };
        Ok(Self {
            kind,
            site: Arc::new(Site::new(address)),
            command,
            data,
            folder: temporary,
            origin: (binary.to_owned(), folder.to_owned()),
            child: None,
            first_answer: Duration::ZERO,
        })
    }

    /// Another server of the same kind, which exchanges rooms with others.
    pub(crate) fn like_it(&self, peer: &Peer) -> Result<Self> {
        Self::prepare_peer(self.kind, &self.origin.0, &self.origin.1, Some(peer))
    }

    /// Starts it and waits for its first answer.
    ///
    /// # Errors
    ///
    /// If it ends by itself, or does not answer within two minutes.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let [program, arguments @ ..] = self.command.as_slice() else { bail!("no command") };
        let wall = Stopwatch::start();
        let child = Command::new(program)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("run {program}"))?;
        self.site.set_pid(i32::try_from(child.id()).context("process id")?);
        self.child = Some(child);
        loop {
            let connection = Connection::new(self.site.address);
            let answer = connection.get("/_matrix/client/versions", "").await;
            if answer.is_ok_and(|answer| answer.is_ok()) {
                self.first_answer = wall.elapsed();
                return Ok(());
            }
            if !self.is_running() {
                bail!("{} ended at the start:\n{}", self.kind, self.log_tail());
            }
            if wall.elapsed() > START_TIMEOUT {
                bail!("{} does not answer:\n{}", self.kind, self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
        let wall = Stopwatch::start();
        while child.try_wait()?.is_none() {
            if wall.elapsed() > STOP_TIMEOUT {
                child.kill()?;
                child.wait()?;
                bail!("{} did not stop in {} s", self.kind, STOP_TIMEOUT.as_secs());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Whether the process is there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts it again without the relaxations for suites, every device looked after by the hospital;
    /// or as it was.
    pub(crate) async fn restart_as_a_hospital(&mut self, is_hospital: bool) -> Result<()> {
        const RELAXED: &str = "--conformance";
        self.stop().await?;
        self.command.retain(|word| word != RELAXED);
        let settings = self.folder.path().join("conf.d/hospital.toml");
        if is_hospital {
            std::fs::write(settings, "[sessions]\ndefault_class = \"managed\"\n")?;
        } else {
            std::fs::remove_file(settings)?;
            // Program, `serve`, then its flags.
            self.command.insert(2, RELAXED.to_owned());
        }
        self.start().await
    }

    /// How many files of people are on the disk.
    pub(crate) fn media_files(&self) -> usize {
        crate::process::files_below(&self.data.join("media"))
    }

    /// Bytes on disk now.
    pub(crate) fn disk_bytes(&self) -> u64 {
        crate::process::disk_bytes(&self.data)
    }

    /// The end of what it logged.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let from = log.len().saturating_sub(2000);
        String::from_utf8_lossy(&log[from..]).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After an error nobody called `stop`; the child must not outlive its folder.
        if let Some(child) = &mut self.child
            && child.kill().is_ok()
            && let Err(error) = child.wait()
        {
            eprintln!("{} was not waited for: {error}", self.kind);
        }
    }
}

pub(crate) fn free_address() -> Result<SocketAddr> {
    // The listener is closed again at once: nobody else on this machine takes ports in a hurry.
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
