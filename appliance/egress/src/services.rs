//! Service records: DNS is asked directly, because the system's resolver does not know of them. Where
//! the machine's DNS servers are is taken from `/etc/resolv.conf`.

use std::time::Duration;

use appliance_services::egress::{Failure, ServiceRecord};
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::RData;
use tokio::sync::OnceCell;

/// A DNS server of the house answers in milliseconds; a lost packet is sent once more.
const TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPTS: usize = 2;

/// Records of one service that are looked at.
const RECORDS_MAX: usize = 16;

/// The resolver, made when the first one asks.
#[derive(Default)]
pub struct Services(OnceCell<TokioResolver>);

impl Services {
    /// The hosts of a service, best first; empty if there is none.
    ///
    /// # Errors
    ///
    /// DNS does not answer.
    pub async fn find(&self, name: &str) -> Result<Vec<ServiceRecord>, Failure> {
        let unreachable =
            |error: &dyn std::fmt::Display| Failure::Unreachable(format!("DNS: {error}"));
        let resolver = self.0.get_or_try_init(async || resolver()).await;
        let found = match resolver.map_err(|error| unreachable(&error))?.srv_lookup(name).await {
            Ok(found) => found,
            Err(error) if error.is_no_records_found() || error.is_nx_domain() => {
                return Ok(Vec::new());
            }
            Err(error) => return Err(unreachable(&error)),
        };
        let mut records: Vec<_> = found
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(ServiceRecord {
                    priority: srv.priority,
                    weight: srv.weight,
                    target: srv.target.to_utf8().trim_end_matches('.').to_owned(),
                    port: srv.port,
                }),
                _ => None,
            })
            // "A Target of "." means that the service is decidedly not available at this domain."
            .filter(|record| !record.target.is_empty())
            .take(RECORDS_MAX)
            .collect();
        records.sort_by_key(|record| (record.priority, std::cmp::Reverse(record.weight)));
        Ok(records)
    }
}

fn resolver() -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let mut builder = TokioResolver::builder_tokio()?;
    let options = builder.options_mut();
    options.timeout = TIMEOUT;
    options.attempts = ATTEMPTS;
    builder.build()
}
