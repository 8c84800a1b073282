//! How many connections may be open, in all and from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::net::Peer;

/// Counts open connections.
pub struct Caps {
    total_max: usize,
    per_ip_max: usize,
    /// For metrics.
    listener: &'static str,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    total: usize,
    per_ip: HashMap<IpAddr, usize>,
}

/// One open connection; dropping it makes room.
pub struct Seat {
    caps: Arc<Caps>,
    counted_as: Option<IpAddr>,
}

impl Caps {
    /// At most `total_max` connections, `per_ip_max` of them from one address.
    pub fn new(listener: &'static str, total_max: usize, per_ip_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, per_ip_max, listener, open: Mutex::default() })
    }

    /// A seat for a new connection, or none if the house is full. A proxy counts towards the total
    /// only, since it speaks for everyone; so does a Unix socket.
    pub fn take(self: &Arc<Self>, peer: Peer, is_proxy: bool) -> Option<Seat> {
        let counted_as = match peer {
            Peer::Ip(address) if !is_proxy => Some(network(address.ip())),
            _ => None,
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.total >= self.total_max {
            return None;
        }
        if let Some(network) = counted_as {
            let count = open.per_ip.entry(network).or_default();
            if *count >= self.per_ip_max {
                return None;
            }
            *count += 1;
        }
        open.total += 1;
        self.show(&open);
        Some(Seat { caps: self.clone(), counted_as })
    }

    fn show(&self, open: &Open) {
        metrics::gauge!("wardstone_connections_open", "listeners" => self.listener)
            .set(open.total as f64);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.caps.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.total -= 1;
        if let Some(network) = self.counted_as
            && let Some(count) = open.per_ip.get_mut(&network)
        {
            *count -= 1;
            // Addresses come and go; the map must not remember all of them.
            if *count == 0 {
                open.per_ip.remove(&network);
            }
        }
        self.caps.show(&open);
    }
}

/// What counts as one address: an IPv6 customer has a whole /64 to pick from.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => IpAddr::V4(ip),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(ip: &str) -> Peer {
        Peer::Ip((ip.parse::<IpAddr>().unwrap(), 1).into())
    }

    #[test]
    fn one_address_cannot_take_every_seat() {
        let caps = Caps::new("test", 10, 2);
        let first = caps.take(peer("192.0.2.1"), false);
        let second = caps.take(peer("192.0.2.1"), false);
        assert!(first.is_some() && second.is_some());
        assert!(caps.take(peer("192.0.2.1"), false).is_none());
        let other = caps.take(peer("192.0.2.2"), false);
        assert!(other.is_some(), "others still get in");
        drop(first);
        assert!(caps.take(peer("192.0.2.1"), false).is_some(), "a closed connection makes room");
    }

    #[test]
    fn an_ipv6_customer_counts_once_and_a_mapped_ipv4_as_ipv4() {
        let caps = Caps::new("test", 10, 1);
        let _first = caps.take(peer("2001:db8::1"), false);
        assert!(caps.take(peer("2001:db8::2"), false).is_none());
        let _second = caps.take(peer("2001:db8:0:1::1"), false).unwrap();
        let _third = caps.take(peer("192.0.2.1"), false).unwrap();
        assert!(caps.take(peer("::ffff:192.0.2.1"), false).is_none());
    }

    #[test]
    fn a_proxy_speaks_for_everyone() {
        let caps = Caps::new("test", 10, 1);
        let seats: Vec<_> = (0..11).map_while(|_| caps.take(peer("10.0.0.1"), true)).collect();
        assert_eq!(seats.len(), 10);
    }

    #[test]
    fn the_total_holds_and_nothing_is_remembered() {
        let caps = Caps::new("test", 1, 1);
        let seat = caps.take(Peer::Unix { uid: 0 }, false).unwrap();
        assert!(caps.take(peer("192.0.2.1"), false).is_none());
        drop(seat);
        drop(caps.take(peer("192.0.2.1"), false).unwrap());
        let open = caps.open.lock().unwrap();
        assert!(open.per_ip.is_empty() && open.total == 0);
    }
}
