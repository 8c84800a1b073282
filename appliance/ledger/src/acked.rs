//! The last acknowledged position, in a small file of its own.
//!
//! A store that lost its tail opens without complaint in more than one engine. If it is behind this
//! file, something that was answered is gone, and the server must not start as if nothing happened.
//!
//! The file is written before every answer, so it is exact after a crash of the process, and synced
//! within [`SYNC_WITHIN`], so after a power cut it is at most that much behind. It only has to
//! notice a loss; what keeps the answers is the engine's own sync. One more disk sync per message
//! would cost a third of a message.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use appliance_model::Position;

/// How far the file may be behind after a power cut.
pub const SYNC_WITHIN: Duration = Duration::from_millis(100);
/// Two slots, written in turn: a torn write spoils the one being written, never the other.
const SLOT_BYTES: u64 = 512;

/// The file `acknowledged`.
pub struct Acked {
    file: Arc<File>,
    turn: bool,
}

impl Acked {
    /// Opens the file, creating it with position zero.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn open(folder: &Path) -> io::Result<(Self, Position)> {
        let path = folder.join("acknowledged");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        file.set_len(2 * SLOT_BYTES)?;
        file.sync_all()?;
        File::open(folder)?.sync_all()?;
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        let newest = slots.iter().flatten().max().copied().unwrap_or_default();
        // Write over the older slot first.
        let turn = slots[0] == Some(newest) && slots[0] != slots[1];
        Ok((Self { file: Arc::new(file), turn }, newest))
    }

    /// Records that `position` is acknowledged. Survives the process; [`Acked::file`] is to be
    /// synced soon.
    ///
    /// # Errors
    ///
    /// What the file system says. Nothing may be acknowledged after that.
    pub fn record(&mut self, position: Position) -> io::Result<()> {
        let mut slot = [0; 16];
        slot[..8].copy_from_slice(&position.0.to_be_bytes());
        slot[8..].copy_from_slice(&check(position).to_be_bytes());
        let offset = if self.turn { SLOT_BYTES } else { 0 };
        self.file.write_all_at(&slot, offset)?;
        self.turn = !self.turn;
        Ok(())
    }

    /// The file, to be synced where waiting for a disk holds up nobody.
    pub fn file(&self) -> Arc<File> {
        self.file.clone()
    }
}

fn read_slot(file: &File, number: u64) -> io::Result<Option<Position>> {
    let mut slot = [0; 16];
    file.read_exact_at(&mut slot, number * SLOT_BYTES)?;
    let half = |range: std::ops::Range<usize>| {
        u64::from_be_bytes(slot[range].try_into().expect("half of sixteen bytes is eight"))
    };
    let position = Position(half(0..8));
    Ok((half(8..16) == check(position)).then_some(position))
}

/// Not a secret: it tells a whole slot from a torn or empty one.
fn check(position: Position) -> u64 {
    (position.0 ^ 0x77_61_72_64_73_74_6f_6e).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_whole_slot_counts_even_if_the_other_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let (mut acked, at) = Acked::open(folder.path()).unwrap();
        assert_eq!(at, Position(0));
        for position in 1..=5 {
            acked.record(Position(position)).unwrap();
        }
        let (mut acked, at) = Acked::open(folder.path()).unwrap();
        assert_eq!(at, Position(5));
        acked.record(Position(6)).unwrap();
        let offset = if acked.turn { 0 } else { SLOT_BYTES };
        acked.file.write_all_at(&[0xff; 7], offset).unwrap();
        let (_, at) = Acked::open(folder.path()).unwrap();
        assert_eq!(at, Position(5), "the torn slot is not believed");
    }
}
