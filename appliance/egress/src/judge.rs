//! Whom the operator allowed for what, and which addresses may be behind a name.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

use appliance_model::ruma::ServerName;
use appliance_services::egress::Purpose;
use appliance_services::peers::{Pins, Roll, Standing};
use http::Uri;
use http::uri::Scheme;
use ipnet::IpNet;

/// What the operator named.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// Anything, at any address, also without TLS: for conformance suites only.
    pub anything: bool,
    /// Networks that are not public and may be reached all the same.
    pub networks: Vec<IpNet>,
    /// Hosts of push gateways.
    pub push_gateways: Vec<String>,
    /// Hosts whose pages are asked for previews: a name, `*.name` for all below it, with a port
    /// where it is not 443.
    pub previews: Vec<String>,
    /// The URL of the federation list.
    pub federation_list: Option<Uri>,
}

/// What a request that is allowed may do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    /// Connect to any address: the operator named this very URL.
    pub any_address: bool,
    /// Networks that are not public and may be reached all the same.
    pub networks: Arc<[IpNet]>,
    /// An address that the operator wrote down for this very peer.
    pub address: Option<IpAddr>,
    /// What is pinned of the other side's certificate.
    pub pins: Option<Arc<Pins>>,
}

/// The judge.
pub struct Judge {
    anything: bool,
    networks: Arc<[IpNet]>,
    push_gateways: HashSet<String>,
    previews: Vec<String>,
    federation_list: Option<Uri>,
    app_services: RwLock<HashSet<(String, u16)>>,
    peers: Arc<Roll>,
}

impl Judge {
    /// A judge of what the operator named.
    pub fn new(named: Named, peers: Arc<Roll>) -> Self {
        Self {
            anything: named.anything,
            networks: named.networks.into(),
            push_gateways: named.push_gateways.iter().map(|h| h.to_ascii_lowercase()).collect(),
            previews: named.previews.iter().map(|h| h.to_ascii_lowercase()).collect(),
            federation_list: named.federation_list,
            app_services: RwLock::default(),
            peers,
        }
    }

    /// Application services may be asked at this URL's host and port.
    pub fn allow_app_service(&self, url: &Uri) {
        let Some(host) = url.host() else { return };
        let origin = (host.to_ascii_lowercase(), port(url));
        self.app_services.write().unwrap_or_else(PoisonError::into_inner).insert(origin);
    }

    /// Whether a request may be sent, by what it is for and where it goes.
    ///
    /// # Errors
    ///
    /// Why not, in a sentence for the operator.
    pub fn judge(&self, purpose: &Purpose, uri: &Uri) -> Result<Terms, String> {
        let mut terms = Terms {
            any_address: self.anything,
            networks: self.networks.clone(),
            address: None,
            pins: None,
        };
        if let Purpose::Peer(name) = purpose {
            let written = self.peers.described(name).and_then(|peer| peer.address.clone());
            terms.address = written.as_deref().and_then(literal);
            terms.pins = self.peers.pins(name);
        }
        if self.anything {
            return Ok(terms);
        }
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let is_tls = uri.scheme() == Some(&Scheme::HTTPS);
        match purpose {
            Purpose::Peer(name) | Purpose::PeerPlace(name) if !self.peers.allows(name) => {
                Err(self.why_not(name))
            }
            Purpose::PushGateway if !self.push_gateways.contains(&host) => {
                Err(format!("{host} is not among `egress.push_gateways`"))
            }
            // The operator wrote the very URL, most often one of this machine.
            Purpose::AppService => {
                let known = self.app_services.read().unwrap_or_else(PoisonError::into_inner);
                if known.contains(&(host.clone(), port(uri))) {
                    Ok(Terms { any_address: true, ..terms })
                } else {
                    Err(format!("{host} is not the URL of a registered application service"))
                }
            }
            Purpose::Preview if !self.previews_allow(&host, port(uri)) => {
                Err(format!("{host} is not among `egress.preview_hosts`"))
            }
            Purpose::FederationList if self.federation_list.as_ref() != Some(uri) => {
                Err(format!("{uri} is not the URL of `federation.list`"))
            }
            _ if !is_tls => Err(format!("{host} would be asked without TLS")),
            _ => Ok(terms),
        }
    }

    fn previews_allow(&self, host: &str, port: u16) -> bool {
        self.previews.iter().any(|pattern| {
            let (name, wanted) = match pattern.rsplit_once(':') {
                Some((name, wanted)) => (name, wanted.parse().unwrap_or(0)),
                None => (pattern.as_str(), 443),
            };
            let is_host = match name.strip_prefix("*.") {
                Some(parent) => host.strip_suffix(parent).is_some_and(|sub| sub.ends_with('.')),
                None => host == name,
            };
            is_host && wanted == port
        })
    }

    fn why_not(&self, peer: &ServerName) -> String {
        match self.peers.standing(peer) {
            Standing::Suspended => format!("{peer} is suspended"),
            Standing::NotYet => format!("the first day of {peer} is still to come"),
            Standing::Over => format!("the last day of {peer} is over"),
            Standing::Active | Standing::Unknown => format!("{peer} is not on the list of peers"),
        }
    }

    /// Whether DNS may be asked about a peer.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn judge_name(&self, purpose: &Purpose) -> Result<(), String> {
        match purpose {
            Purpose::Peer(name) | Purpose::PeerPlace(name)
                if self.anything || self.peers.allows(name) =>
            {
                Ok(())
            }
            Purpose::Peer(name) | Purpose::PeerPlace(name) => Err(self.why_not(name)),
            _ => Err("only peers have service records".to_owned()),
        }
    }
}

impl Terms {
    /// Whether this address may be connected to.
    pub fn allow(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.any_address
            || self.address == Some(address)
            || is_public(address)
            || self.networks.iter().any(|network| network.contains(&address))
    }
}

/// The address that a host with or without a port is, if it is no name.
fn literal(host: &str) -> Option<IpAddr> {
    let host = ServerName::parse(host).ok()?;
    let host = host.host().trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// The port of a URL, or that of its scheme.
pub fn port(uri: &Uri) -> u16 {
    let default = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
    uri.port_u16().unwrap_or(default)
}

/// Whether an address belongs to the public internet ([IANA v4], [IANA v6]).
///
/// [IANA v4]: https://www.iana.org/assignments/iana-ipv4-special-registry
/// [IANA v6]: https://www.iana.org/assignments/iana-ipv6-special-registry
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = match (a, b, c) {
        // This network, private, loopback, multicast and reserved.
        (0 | 10 | 127 | 224.., _, _) => true,
        // Shared by providers' address translation.
        (100, 64..=127, _) => true,
        // Link-local, the metadata services of clouds among them.
        (169, 254, _) => true,
        (172, 16..=31, _) | (192, 168, _) => true,
        // Protocol assignments, documentation, old 6to4 relays.
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 51, 100) | (203, 0, 113) => true,
        // Measurement inside networks.
        (198, 18..=19, _) => true,
        _ => false,
    };
    !is_special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let octets = address.octets();
    let embedded = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    match (a, b) {
        // Translated to an IPv4 address on the way.
        (0x64, 0xff9b) => address.segments()[2..6] == [0; 4] && is_public_v4(embedded),
        // Protocol assignments (Teredo and others), documentation, 6to4: what is inside is unknown.
        (0x2001, 0..=0x1ff | 0xdb8) | (0x2002, _) => false,
        // Global unicast; everything else is local, multicast or unassigned.
        _ => a & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use appliance_model::ruma::server_name;

    use super::*;

    fn roll() -> Arc<Roll> {
        Arc::new(Roll::of([server_name!("b.example").to_owned()]))
    }

    fn peer(name: &str) -> Purpose {
        Purpose::Peer(ServerName::parse(name).unwrap())
    }

    #[test]
    fn nothing_is_allowed_that_nobody_named() {
        let judge = Judge::new(Named::default(), roll());
        let allows = |purpose: &Purpose, uri: &'static str| {
            judge.judge(purpose, &Uri::from_static(uri)).is_ok()
        };
        assert!(allows(&peer("b.example"), "https://b.example/"));
        assert!(!allows(&peer("b.example"), "http://b.example/"), "without TLS");
        assert!(!allows(&peer("c.example"), "https://c.example/"));
        assert!(!allows(&Purpose::PushGateway, "https://push.example/"));
        assert!(!allows(&Purpose::AppService, "http://127.0.0.1:9000/"));
        judge.allow_app_service(&Uri::from_static("http://127.0.0.1:9000/_matrix"));
        assert!(allows(&Purpose::AppService, "http://127.0.0.1:9000/"));
        assert!(!allows(&Purpose::AppService, "http://127.0.0.1:9001/"), "another port");
        assert!(judge.judge_name(&peer("b.example")).is_ok());
        assert!(judge.judge_name(&peer("c.example")).is_err());
    }

    #[test]
    fn the_federation_list_is_asked_at_its_very_url() {
        let list = Uri::from_static("https://list.example/list.jws");
        let named = Named { federation_list: Some(list), ..Named::default() };
        let allows = |named: Named, uri| {
            let judge = Judge::new(named, roll());
            judge.judge(&Purpose::FederationList, &Uri::from_static(uri)).is_ok()
        };
        assert!(allows(named.clone(), "https://list.example/list.jws"));
        assert!(!allows(named, "https://list.example/other"));
        assert!(!allows(Named::default(), "https://list.example/list.jws"), "nobody named it");
        let plain = Uri::from_static("http://list.example/list.jws");
        let named = Named { federation_list: Some(plain), ..Named::default() };
        assert!(!allows(named, "http://list.example/list.jws"), "without TLS");
    }

    #[test]
    fn a_named_gateway_is_allowed_over_tls_alone() {
        let named = Named { push_gateways: vec!["Push.example".to_owned()], ..Named::default() };
        let judge = Judge::new(named, roll());
        let push = |uri| judge.judge(&Purpose::PushGateway, &Uri::from_static(uri)).is_ok();
        assert!(push("https://push.example/_matrix/push/v1/notify"));
        assert!(!push("http://push.example/_matrix/push/v1/notify"));
        assert!(!push("https://push.example.evil.example/_matrix/push/v1/notify"));
    }

    #[test]
    fn previews_are_made_of_named_hosts_over_tls_alone() {
        let previews = vec!["Wiki.example".to_owned(), "*.press.example:8443".to_owned()];
        let judge = Judge::new(Named { previews, ..Named::default() }, roll());
        let allows = |uri| judge.judge(&Purpose::Preview, &Uri::from_static(uri)).is_ok();
        assert!(allows("https://wiki.example/page"));
        assert!(allows("https://a.press.example:8443/"));
        for no in [
            "http://wiki.example/page",
            "https://wiki.example:8443/",
            "https://evil.example/",
            "https://notwiki.example/",
            "https://wiki.example.evil.example/",
            "https://press.example:8443/",
            "https://evilpress.example:8443/",
            "https://a.press.example/",
            "https://127.0.0.1/",
        ] {
            assert!(!allows(no), "{no}");
        }
        let terms = judge.judge(&Purpose::Preview, &Uri::from_static("https://wiki.example/"));
        assert!(!terms.unwrap().allow("10.0.0.1".parse().unwrap()), "whatever its name says");
    }

    #[test]
    fn addresses_inside_are_not_public() {
        for inside in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "64:ff9b:1::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "2001::1",
            "2002:a00:1::",
            "100::1",
            "fec0::1",
        ] {
            assert!(!is_public(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["9.9.9.9", "172.32.0.1", "2620:fe::fe", "64:ff9b::909:909"] {
            assert!(is_public(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn networks_inside_that_the_operator_named_may_be_reached() {
        let named = Named { networks: vec!["10.20.0.0/16".parse().unwrap()], ..Named::default() };
        let judge = Judge::new(named, roll());
        let terms = judge.judge(&peer("b.example"), &Uri::from_static("https://b.example/"));
        let terms = terms.unwrap();
        assert!(terms.allow("10.20.3.4".parse().unwrap()));
        assert!(terms.allow("::ffff:10.20.3.4".parse().unwrap()));
        assert!(!terms.allow("10.21.3.4".parse().unwrap()));
    }
}
