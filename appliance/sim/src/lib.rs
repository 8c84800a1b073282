//! What the tests of the whole house share, and the account of what they proved.

pub mod guarantees;
