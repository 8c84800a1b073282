//! A photo that is lent: two Wardstones and a Synapse in one room. The Wardstone where somebody looks at it
//! writes nothing down (its system calls and its folders are watched, and it is killed while something passes
//! through); the Synapse, which is given no files, has nothing.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use appliance_acceptance::wait::until;
use http::Method;
use rustix::fs::inotify;
use rustix::io::Errno;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::resident::{Resident, a_photo};
use crate::town::{FRIEND, Hospital, Town};

/// Every way to make a file, or a name for one.
const MAKERS: &str = "creat,open,openat,openat2,mkdir,mkdirat,mknod,mknodat,link,linkat,symlink,\
                      symlinkat,rename,renameat,renameat2,memfd_create";

/// Watches what a server asks of the kernel.
struct Watch {
    log: PathBuf,
    _strace: Child,
}

impl Watch {
    async fn on(hospital: &Hospital) -> Self {
        let log = hospital.scratch().join("calls");
        let pid = hospital.pid().await;
        let strace = Command::new("strace")
            .args(["-f", "-qq", "-e", &format!("trace={MAKERS}"), "-p", &pid.to_string(), "-o"])
            .arg(&log)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("strace: run appliance/acceptance/prepare first");
        until("strace to look on", async || {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
            let mut tasks = tasks.map(|task| task.expect("a thread").path().join("status"));
            let is_traced = |path: PathBuf| {
                // A thread that has just ended needs no watching.
                let status = std::fs::read_to_string(path).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            };
            tasks.all(is_traced).then_some(())
        })
        .await;
        Self { log, _strace: strace }
    }

    /// What was made so far.
    fn made(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).expect("the list of calls");
        let makes = |line: &&str| {
            let opens = line.contains("open");
            !opens || line.contains("O_CREAT") || line.contains("O_TMPFILE")
        };
        log.lines().filter(makes).map(str::to_owned).collect()
    }
}

/// What the kernel says of new names in folders.
struct Names(OwnedFd);

impl Names {
    fn below(folder: &Path) -> Self {
        let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
        let watch = inotify::init(flags).expect("inotify");
        for folder in folders_below(folder) {
            let news = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
            inotify::add_watch(&watch, &folder, news).expect("a watched folder");
        }
        Self(watch)
    }

    /// Those that are new since the last time.
    fn appeared(&self) -> Vec<String> {
        let mut buffer = [MaybeUninit::uninit(); 4_096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut names = Vec::new();
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                    names.push(name.unwrap_or_default());
                }
                Err(Errno::AGAIN) => return names,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}

fn folders_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let below = paths.filter(|path| path.is_dir()).flat_map(|path| folders_below(&path));
    below.chain([folder.to_path_buf()]).collect()
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .collect();
    files.sort();
    files
}

async fn look(who: &Resident, uri: &str) -> (u16, bytes::Bytes) {
    let path = uri.replacen("mxc://", "/v1/media/download/", 1);
    let answer = who.call(Method::GET, &path, None).await;
    (answer.status.as_u16(), answer.body)
}

/// What passes through a server that is killed in the middle is nowhere on its disk.
async fn killed_while_it_passes_through(home: &Resident, guest: &Resident, room: &str) {
    /// More than the buffers of two connections.
    const FILM_BYTES: usize = 24 * 1024 * 1024;
    const MARKER: &[u8] = b"a-frame-of-the-film-that-passes-through";
    let film = MARKER.repeat(FILM_BYTES / MARKER.len());
    let uri = home.upload("application/x-film", film.into()).await;
    let content = json!({ "msgtype": "m.file", "body": "gait.bin", "url": uri });
    let shown = home.send(room, "m.room.message", content).await;
    guest.wait_event(room, &shown).await;
    let data = guest.hospital.scratch().join("data");
    let before = files_below(&data);
    let names = Names::below(&data);

    let address = guest.hospital.base_url().replace("http://", "");
    let mut line = TcpStream::connect(&address).await.expect("a connection");
    let path = uri.replacen("mxc://", "/_matrix/client/v1/media/download/", 1);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\r\n",
        guest.token
    );
    line.write_all(request.as_bytes()).await.expect("a request");
    let mut seen = vec![0; 1024 * 1024];
    line.read_exact(&mut seen).await.expect("the beginning");
    assert!(seen.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&seen[..200]));
    guest.hospital.kill().await;
    let mut rest = Vec::new();
    // It breaks off in whatever way.
    let _ = line.read_to_end(&mut rest).await;
    assert!(seen.len() + rest.len() < FILM_BYTES, "it was killed in the middle");

    assert_eq!(names.appeared(), Vec::<String>::new());
    assert_eq!(files_below(&data), before);
    for file in &before {
        let bytes = std::fs::read(file).expect("a file");
        assert!(!bytes.windows(MARKER.len()).any(|part| part == MARKER), "{}", file.display());
    }
    guest.hospital.start_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_photo_is_written_down_nowhere_and_its_end_is_confirmed() {
    let town = Town::found();
    let [home, guest, other] = town.open_three(&FRIEND, &[]).await;
    let nurse = Arc::new(home.hire("nurse").await);
    let (doctor, visitor) = (guest.hire("doctor").await, other.hire("visitor").await);
    let room = nurse.create_room("11", json!({})).await;
    let policy = json!({ "federation": { "ours": "lease", "other": "deny" } });
    nurse.set(&room, "io.wardstone.policy", "", policy).await;
    for somebody in [&doctor, &visitor] {
        nurse.bring(&room, somebody).await;
    }

    let uri = nurse.upload("image/png", a_photo()).await;
    let content = json!({ "msgtype": "m.image", "body": "wound.png", "url": uri });
    let shown = nurse.send(&room, "m.room.message", content).await;
    doctor.wait_event(&room, &shown).await;
    visitor.wait_event(&room, &shown).await;

    let data = guest.scratch().join("data");
    let before = files_below(&data);
    let (watch, names) = (Watch::on(&guest).await, Names::below(&data));
    for _ in 0..3 {
        assert_eq!(look(&doctor, &uri).await, (200, a_photo()));
    }
    let path = uri.replacen("mxc://", "/v1/media/thumbnail/", 1) + "?width=32&height=32";
    assert_eq!(doctor.call(Method::GET, &path, None).await.status, 200);
    assert_eq!(watch.made(), Vec::<String>::new(), "nothing was made");
    assert_eq!(names.appeared(), Vec::<String>::new(), "nor is there a new name");
    assert_eq!(files_below(&data), before);
    assert_eq!(files_below(&data.join("media")), Vec::<PathBuf>::new());
    doctor.upload("image/png", a_photo()).await;
    assert_ne!(watch.made().len(), 0, "what is written down is seen");
    assert_ne!(names.appeared().len(), 0, "by both");
    drop(watch);
    killed_while_it_passes_through(&nurse, &doctor, &room).await;

    // A server that is not given files has none.
    let (status, refusal) = look(&visitor, &uri).await;
    assert_eq!(status, 404, "{}", String::from_utf8_lossy(&refusal));
    let kept = files_below(&other.scratch().join("synapse/media"));
    // Synapse opens a file before it asks: it stays empty.
    let has_bytes = |path: &&PathBuf| std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
    let of_others = kept.iter().filter(|path| path.to_string_lossy().contains("remote"));
    let of_others: Vec<_> = of_others.filter(has_bytes).collect();
    assert!(of_others.is_empty(), "{of_others:?}");

    home.order(&["media", "erase", "--event", &shown]).await;
    assert_eq!(look(&doctor, &uri).await.0, 404, "at once");
    until("the guest's confirmation", async || {
        let waiting = home.order(&["media", "unconfirmed"]).await;
        waiting["unconfirmed"].as_array().expect("a list").is_empty().then_some(())
    })
    .await;
    for somebody in [&doctor, &visitor] {
        until("the redaction", async || {
            let event = somebody.find_event(&room, &shown).await?;
            event["content"].as_object().expect("an object").is_empty().then_some(())
        })
        .await;
    }
}
