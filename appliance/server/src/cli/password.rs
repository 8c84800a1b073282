//! Passwords from a terminal, without echo, or from standard input.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::settings::Secret;

/// Longer than any password that the server takes.
const LINE_BYTES_MAX: u64 = 4_096;

/// Asks for a password twice on a terminal; otherwise reads the first line of standard input.
///
/// # Errors
///
/// A sentence: nothing was given, or the two differ.
pub fn ask(prompt: &str) -> Result<Secret, String> {
    let password = if io::stdin().is_terminal() {
        let first = ask_once(prompt)?;
        if first != ask_once("Again")? {
            return Err("the two passwords differ; nothing was changed".into());
        }
        first
    } else {
        read_line()?
    };
    if password.is_empty() {
        return Err("no password was given; type one, or use --generate".into());
    }
    Ok(Secret::new(password))
}

fn ask_once(prompt: &str) -> Result<String, String> {
    // On standard error: standard output may be a file or a pipe.
    let _ = write!(io::stderr(), "{prompt}: ");
    let silence = Silence::begin().map_err(|error| format!("cannot hide the password: {error}"))?;
    let line = read_line();
    drop(silence);
    let _ = writeln!(io::stderr());
    line
}

/// The first line of standard input: what must not stand in the list of processes.
///
/// # Errors
///
/// A sentence.
pub fn read_line() -> Result<String, String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .take(LINE_BYTES_MAX)
        .read_line(&mut line)
        .map_err(|error| format!("cannot read standard input: {error}"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until dropped.
struct Silence {
    before: Termios,
}

impl Silence {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}
