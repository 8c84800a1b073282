//! Runs a process under the recorder and reads what it wrote down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// One call that changed something.
#[derive(Debug)]
pub enum Call {
    Create { file: u64, path: PathBuf },
    MakeFolder { file: u64, path: PathBuf },
    Write { file: u64, offset: u64, bytes: Vec<u8>, synced: bool },
    Sync { file: u64 },
    Truncate { file: u64, length: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
}

/// A place for one recorded process.
pub struct Bench {
    top: tempfile::TempDir,
    root: PathBuf,
}

/// Says what a child is to do.
const CHILD: &str = "WARDSTONE_TEST_RECORDED_WORK";

impl Bench {
    pub fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        // The recorder compares paths as the kernel names them.
        let root = top.path().canonicalize().unwrap().join("root");
        fs::create_dir(&root).unwrap();
        let bench = Self { top, root };
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_disk/recorder.c");
        let built = Command::new("cc")
            .args(["-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-pthread", "-o"])
            .arg(bench.preload())
            .arg(source)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        bench
    }

    /// The recorded folder; empty at first.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path outside of it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.top.path().join(name)
    }

    fn preload(&self) -> PathBuf {
        self.beside("recorder.so")
    }

    fn log(&self) -> PathBuf {
        self.beside("log")
    }

    /// While this file exists, the disk is in the trouble that its first letter names.
    pub fn trouble(root: &Path) -> PathBuf {
        root.with_file_name("trouble")
    }

    /// Runs the test `name` again as a recorded child that is told `work`.
    pub fn run(&self, name: &str, work: &str) -> Output {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{work} {}", self.root.display()))
            .env("LD_PRELOAD", self.preload())
            .env("RECORD_ROOT", &self.root)
            .env("RECORD_LOG", self.log())
            .env("RECORD_TROUBLE", Self::trouble(&self.root))
            .output()
            .unwrap()
    }

    /// What was recorded, in order.
    pub fn calls(&self) -> Vec<Call> {
        let log = fs::read(self.log()).unwrap();
        let mut rest = log.as_slice();
        let mut calls = Vec::new();
        while let Some((head, behind)) = rest.split_first_chunk::<32>() {
            let small = |at: usize| u32::from_ne_bytes(head[at..at + 4].try_into().unwrap());
            let large = |at: usize| u64::from_ne_bytes(head[at..at + 8].try_into().unwrap());
            let (bytes, behind) = behind.split_at(usize::try_from(large(24)).unwrap());
            calls.push(call(small(0), small(4) != 0, large(8), large(16), bytes));
            rest = behind;
        }
        assert!(rest.is_empty(), "the record ends inside a call");
        calls
    }
}

/// What this process is to do, if it is a child, and in which folder.
pub fn work() -> Option<(String, PathBuf)> {
    let told = std::env::var(CHILD).ok()?;
    let (work, root) = told.split_once(' ').unwrap();
    Some((work.to_owned(), PathBuf::from(root)))
}

fn call(kind: u32, synced: bool, file: u64, offset: u64, bytes: &[u8]) -> Call {
    let text = || std::str::from_utf8(bytes).unwrap();
    match kind {
        1 => Call::Create { file, path: text().into() },
        2 => Call::MakeFolder { file, path: text().into() },
        3 => Call::Write { file, offset, bytes: bytes.to_vec(), synced },
        4 => Call::Sync { file },
        5 => Call::Truncate { file, length: offset },
        6 => {
            let (from, to) = text().split_once('\0').unwrap();
            Call::Rename { from: from.into(), to: to.into() }
        }
        7 => Call::Remove { path: text().into() },
        _ => panic!("a file was changed in a way that cannot be followed: {}", text()),
    }
}
