//! The gate: every connection that leaves this server is opened here, and nowhere else.
//!
//! * [`judge`]: whom the operator allowed for what, and which addresses may be behind a name.
//! * [`Gate`]: sends requests through pooled connections, one pool for each destination.
//! * [`connect`]: resolves a name once, judges every address, and connects to the very address that
//!   was judged, so that a name cannot point elsewhere a moment later.
//! * [`services`]: asks DNS which hosts serve a peer.
//! * [`seen`]: remembers every destination that was contacted or refused.
//!
//! Nothing is allowed by default, no redirect is followed, no proxy is asked, and answers have limits
//! in time and in bytes.

mod connect;
mod gate;
pub mod judge;
mod seen;
mod services;
mod trust;

pub use gate::Gate;
pub use judge::Named;
pub use trust::{OwnCertificate, Trust, authorities, trust};
