//! A photo that is lent: two Wardstones and a Synapse in one room. The Wardstone where somebody looks at it
//! writes nothing down (its system calls are watched); the Synapse, which is given no files, has nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use appliance_acceptance::wait::until;
use http::Method;
use serde_json::json;
use tokio::process::{Child, Command};

use crate::resident::{Resident, a_photo};
use crate::town::{Hospital, Kind, Town};

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

#[tokio::test(flavor = "multi_thread")]
async fn a_lent_photo_is_written_down_nowhere_and_its_end_is_confirmed() {
    let town = Town::found();
    let (home, guest, other) = tokio::join!(
        town.open(Kind::Wardstone),
        town.open(Kind::Wardstone),
        town.open(Kind::Synapse)
    );
    home.befriend(&guest).await;
    guest.befriend(&home).await;
    for hospital in [&home, &guest] {
        hospital.order(&["peers", "add", &other.name]).await;
    }
    let nurse = Arc::new(home.hire("nurse").await);
    let (doctor, visitor) = (guest.hire("doctor").await, other.hire("visitor").await);
    let room = nurse.create_room("11", json!({})).await;
    let policy = json!({ "federation": { "ours": "lease", "other": "deny" } });
    nurse.set(&room, "io.wardstone.policy", "", policy).await;
    for somebody in [&doctor, &visitor] {
        nurse.act("invite", &room, somebody).await;
        somebody.accept(&room).await;
        nurse.wait_is(&room, somebody, "join").await;
    }

    let uri = nurse.upload("image/png", a_photo()).await;
    let content = json!({ "msgtype": "m.image", "body": "wound.png", "url": uri });
    let shown = nurse.send(&room, "m.room.message", content).await;
    doctor.wait_event(&room, &shown).await;
    visitor.wait_event(&room, &shown).await;

    let data = guest.scratch().join("data");
    let before = files_below(&data);
    let watch = Watch::on(&guest).await;
    for _ in 0..3 {
        assert_eq!(look(&doctor, &uri).await, (200, a_photo()));
    }
    let path = uri.replacen("mxc://", "/v1/media/thumbnail/", 1) + "?width=32&height=32";
    assert_eq!(doctor.call(Method::GET, &path, None).await.status, 200);
    assert_eq!(watch.made(), Vec::<String>::new(), "nothing was made");
    assert_eq!(files_below(&data), before);
    assert_eq!(files_below(&data.join("media")), Vec::<PathBuf>::new());
    doctor.upload("image/png", a_photo()).await;
    assert_ne!(watch.made().len(), 0, "what is written down is seen");
    drop(watch);

    // A server that is not given files has none.
    let (status, refusal) = look(&visitor, &uri).await;
    assert!(status >= 400 && refusal != a_photo(), "{status}");
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
