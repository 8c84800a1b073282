//! What systemd hears.

use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::world::{Folder, PATIENCE, get, stderr};

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

/// systemd listens, so that connections wait in the kernel while the server restarts.
#[test]
fn a_socket_from_systemd_is_served() {
    let listeners = "[[listeners]]\nkind = \"client\"\naddress = \"systemd:web\"\n";
    let server = Folder::new(listeners).through(&["python3", "-c", ACTIVATE]).start();
    assert_eq!(get(server.client(), "/_wardstone/health/live").body, "live");
    assert!(server.stop().0.success());

    let folder = Folder::new(listeners);
    let output = folder.run(&["serve"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("FileDescriptorName=web"), "{output:?}");
}

/// Does what systemd does: sockets from descriptor 3 on, then the program.
const ACTIVATE: &str = r#"
import os, socket, sys
listener = socket.create_server(("127.0.0.1", 0))
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="web", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[1], sys.argv[1:])
"#;
