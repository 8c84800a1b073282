//! The other servers that this one talks with: the hospitals on the list, and nobody else.

mod roll;

pub use roll::Roll;
