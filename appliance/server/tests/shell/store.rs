//! The store as a whole: checked, copied, moved, given another key.

use serde_json::Value;

use crate::world::{Folder, Server, stderr, stdout};

fn with_nurse() -> Folder {
    let folder = Folder::new("");
    let output = folder.run(&["user", "create", "nurse"], "pw\n");
    assert!(output.status.success(), "{output:?}");
    folder
}

fn knows_nurse(folder: &Folder) -> bool {
    stdout(&folder.run(&["user", "list"], "")).contains("@nurse:hospital.example")
}

#[test]
fn check_and_stats_work_with_and_without_a_server() {
    let folder = with_nurse();
    let look = |folder: &Folder| {
        let output = folder.run(&["store", "check"], "");
        assert!(output.status.success(), "{output:?}");
        assert!(stdout(&output).starts_with("The store is whole: "), "{output:?}");
        let output = folder.run(&["store", "stats", "--json"], "");
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(stats["rows"].as_u64().unwrap() > 3, "{stats}");
        assert!(stats["disk_bytes"].as_u64().unwrap() > 0, "{stats}");
    };
    look(&folder);
    let server = folder.start();
    look(&server.folder);
}

#[test]
fn damage_is_found_and_the_exit_code_says_so() {
    let folder = with_nurse();
    let file = folder.path("data/store/lmdb/data.mdb");
    let mut bytes = std::fs::read(&file).unwrap();
    // LMDB fills its pages from their ends, so that the last bytes of a page belong to a value. The
    // first two pages are its own.
    for page in bytes.chunks_exact_mut(4_096).skip(2) {
        page[4_096 - 3] ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    let output = folder.run(&["store", "check"], "");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(stderr(&output).contains("damaged"), "{output:?}");
}

fn export(server: &Server, name: &str) {
    let file = server.folder.path(name);
    let output = server.run(&["store", "export", file.to_str().unwrap()], "");
    assert!(output.status.success(), "{output:?}");
    let again = server.run(&["store", "export", file.to_str().unwrap()], "");
    assert_eq!(again.status.code(), Some(1), "never overwrites: {again:?}");
}

#[test]
fn a_store_moves_to_the_other_engine() {
    let server = with_nurse().start();
    export(&server, "move.export");
    let file = server.folder.path("move.export");
    let file = file.to_str().unwrap();
    let running = server.run(&["store", "import", file], "");
    assert!(stderr(&running).contains("needs a server that is stopped"), "{running:?}");
    server.signal("TERM");
    let folder = server.into_folder();

    let occupied = folder.run(&["store", "import", file], "");
    assert_eq!(occupied.status.code(), Some(1));
    assert!(stderr(&occupied).contains("move that folder away"), "{occupied:?}");
    std::fs::rename(folder.path("data/store"), folder.path("store.old")).unwrap();
    std::fs::remove_file(folder.path("data/acknowledged")).unwrap();
    folder.write("conf.d/30-engine.toml", "[store]\nengine = \"sled\"\n");
    let output = folder.run(&["store", "import", file], "");
    assert!(output.status.success(), "{output:?}");
    assert!(knows_nurse(&folder));
    assert!(folder.run(&["store", "check"], "").status.success());
}

#[test]
fn a_new_master_key_takes_over_and_the_old_one_is_kept() {
    let folder = with_nurse();
    let key = folder.path("master.key");
    let old = std::fs::read(&key).unwrap();
    let output = folder.run(&["store", "rotate-key"], "");
    assert!(output.status.success(), "{output:?}");
    assert_ne!(std::fs::read(&key).unwrap(), old);
    assert_eq!(std::fs::read(folder.path("master.key.old-1")).unwrap(), old);
    assert!(knows_nurse(&folder));

    std::fs::copy(folder.path("master.key.old-1"), &key).unwrap();
    let output = folder.run(&["user", "list"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the master key does not fit this store"), "{output:?}");
}

#[test]
fn an_interrupted_rotation_is_finished_before_the_server_starts() {
    let folder = with_nurse();
    // As after a crash between the first step, the new key, and the last, its name.
    std::fs::write(folder.path("master.key.new"), [7; 32]).unwrap();
    let output = folder.run(&["serve"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("wardstone store rotate-key"), "{output:?}");
    assert!(folder.run(&["store", "rotate-key"], "").status.success());
    assert_eq!(std::fs::read(folder.path("master.key")).unwrap(), [7; 32]);
    assert!(knows_nurse(&folder));
}

#[test]
fn status_says_whether_a_server_runs() {
    let folder = Folder::new("");
    assert_eq!(folder.run(&["status"], "").status.code(), Some(3));
    let server = folder.start();
    let output = server.run(&["status", "--json"], "");
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["server_name"], "hospital.example");
    assert_eq!(status["ready"], true);
    assert_eq!(status["pid"], server.pid());
}
