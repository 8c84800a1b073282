//! Who is on the list now. In memory, because every request in either direction asks.

use std::collections::HashSet;

use appliance_model::ruma::{OwnedServerName, ServerName};

/// The list.
#[derive(Debug, Default)]
pub struct Roll {
    anyone: bool,
    named: HashSet<OwnedServerName>,
}

impl Roll {
    /// The servers that the settings name.
    pub fn of(named: impl IntoIterator<Item = OwnedServerName>) -> Self {
        Self { anyone: false, named: named.into_iter().collect() }
    }

    /// Everybody: for conformance suites only.
    pub fn of_anyone() -> Self {
        Self { anyone: true, named: HashSet::new() }
    }

    /// Whether this server talks with that one.
    pub fn allows(&self, server_name: &ServerName) -> bool {
        self.anyone || self.named.contains(server_name)
    }
}
