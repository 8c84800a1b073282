//! What systemd hears.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::world::{Folder, PATIENCE};

struct Manager(UnixDatagram);

impl Manager {
    fn listen(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Waits for a message that has `line`; returns it whole.
    fn wait_for(&self, line: &str) -> String {
        let mut buffer = [0; 4_096];
        loop {
            let length = self.0.recv(&mut buffer).unwrap();
            let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
            if message.lines().any(|found| found == line) {
                return message;
            }
        }
    }
}

#[test]
fn ready_alive_reloading_stopping() {
    let folder = Folder::new("");
    let path = folder.path("notify");
    let manager = Manager::listen(&path);
    let server = folder
        .environment("NOTIFY_SOCKET", path.to_str().unwrap())
        .environment("WATCHDOG_USEC", "400000")
        .start();
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");
    server.signal("HUP");
    let reloading = manager.wait_for("RELOADING=1");
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    manager.wait_for("READY=1");
    server.signal("TERM");
    manager.wait_for("STOPPING=1");
    assert!(server.wait().0.success());
}
