//! Exit codes, as `wardstone --help` lists them. `0` is success.

/// It did not work; the reason is on standard error.
pub const FAILED: u8 = 1;
/// The arguments (clap's own code) or the settings are wrong.
pub const BAD_SETTINGS: u8 = 2;
/// The server does not answer on its admin socket.
pub const NO_SERVER: u8 = 3;
/// The store is damaged.
pub const DAMAGED: u8 = 4;
